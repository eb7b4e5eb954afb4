// A shop's carts that move between servers: an application of PLASMA with Node's own modules.
//
// plasma-sidecar asks for turns: POST /plasma/turn. What a turn needs comes with it, and what
// comes of it is the answer, so nothing here is kept between turns.
//
//     curl -d '{"sku": "tea", "count": 2}' http://ADDRESS:8080/carts/ann/add
//     curl -d '{}' http://ADDRESS:8080/carts/ann/checkout
//     curl -d '{}' http://ADDRESS:8080/items/tea/read
'use strict';

const http = require('node:http');

const sidecar = process.env.PLASMA_URL;
const authorization = `Bearer ${process.env.PLASMA_TOKEN}`; // shows each to the other
const forgotten = 3600; // seconds after which a cart that nobody touches ends

const types = [
  { name: 'Cart', durable: 'each-turn', functions: ['add', 'read', 'checkout', 'expire'] },
  { name: 'Item', durable: 'each-turn', functions: ['price', 'sell', 'read'] },
];

const behavior = {
  // A cart has a price for each item: the one of when it was first put in.
  async Cart({ turn, function: name, body, state }) {
    const cart = state ?? { lines: {} };
    const lines = Object.entries(cart.lines);
    const total = () => Object.values(cart.lines).reduce((sum, l) => sum + l.count * l.price, 0);
    switch (name) {
      case 'add': {
        if (!body || !(body.count > 0)) return { error: 'want a sku and how many' }; // changes nothing
        const line = cart.lines[body.sku] ?? {
          count: 0,
          price: await call('Item', body.sku, 'price', null, turn),
        };
        line.count += body.count;
        cart.lines[body.sku] = line;
        return {
          state: cart,
          body: { total: total() },
          timers: [{ name: 'expire', after: forgotten }],
          references: { items: Object.keys(cart.lines).map((key) => ({ type: 'Item', key })) },
        };
      }
      case 'checkout':
        if (lines.length === 0) return { error: 'the cart is empty' };
        return {
          state: null, // the cart ends
          body: { paid: total() },
          // Sends leave with the new state: each has one effect, whatever fails.
          sends: lines.map(([key, line]) => ({
            to: { type: 'Item', key },
            function: 'sell',
            body: { count: line.count },
          })),
        };
      case 'expire':
        return { state: null };
      default:
        return { body: { ...cart, total: total() } };
    }
  },

  // An item knows its price, and how many were sold.
  async Item({ key, function: name, body, state }) {
    const item = state ?? { price: 1 + key.length, sold: 0 };
    if (name === 'price') return { state: item, body: item.price };
    if (name === 'sell') item.sold += body.count;
    return { state: item, body: item, metrics: { sold: item.sold } };
  },
};

// call calls an actor, wherever it is: within a turn, or for a client.
async function call(type, key, name, body, turn) {
  const path = [type, key, name].map(encodeURIComponent).join('/');
  const headers = { authorization, 'content-type': 'application/json' };
  if (turn) headers['plasma-turn'] = turn;
  const response = await fetch(`${sidecar}/v1/call/${path}`, {
    method: 'POST',
    headers,
    body: JSON.stringify(body ?? null),
  });
  const value = await response.json();
  if (response.ok) return value;
  throw Object.assign(new Error(value.error.message), {
    status: response.status,
    retry: response.headers.get('retry-after'),
  });
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : null;
}

function answer(response, status, value, retry) {
  const headers = { 'content-type': 'application/json' };
  if (retry) headers['retry-after'] = retry;
  response.writeHead(status, headers).end(JSON.stringify(value));
}

// plasma answers the sidecar, and nobody else.
async function plasma(request, response) {
  if (request.headers.authorization !== authorization) {
    return answer(response, 401, { error: 'only the sidecar may ask for that' });
  }
  if (request.url === '/plasma/types') return answer(response, 200, { types });
  const turn = await read(request);
  try {
    answer(response, 200, await behavior[turn.type](turn));
  } catch (e) {
    answer(response, 200, { error: e.message }); // the turn changes nothing
  }
}

// client answers a client: POST /carts/KEY/FUNCTION or /items/KEY/FUNCTION.
async function client(request, response) {
  const [, what, key, name] = request.url.split('/').map(decodeURIComponent);
  const type = { carts: 'Cart', items: 'Item' }[what];
  if (!type || !key || !name) return answer(response, 404, { error: 'POST /carts/KEY/FUNCTION' });
  try {
    answer(response, 200, await call(type, key, name, await read(request)));
  } catch (e) {
    answer(response, e.status ?? 400, { error: e.message }, e.retry);
  }
}

http
  .createServer((request, response) => {
    const handle = request.url.startsWith('/plasma/') ? plasma : client;
    handle(request, response).catch((e) => answer(response, 500, { error: e.message }));
  })
  .listen(Number(process.env.PORT));
