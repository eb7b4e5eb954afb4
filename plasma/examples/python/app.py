"""Chat rooms that move between servers: an application of PLASMA with Python's standard library.

plasma-sidecar asks for turns: POST /plasma/turn. What a turn needs comes with it, and what comes
of it is the answer, so nothing here is kept between turns.

    curl -d 'hello' http://ADDRESS:8080/rooms/lobby/ann    ann says hello in the lobby
    curl http://ADDRESS:8080/users/bob                     what bob has heard
"""

import json
import os
import socketserver
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL = os.environ["PLASMA_URL"]  # of the sidecar
AUTHORIZATION = "Bearer " + os.environ["PLASMA_TOKEN"]  # shows each to the other
KEPT = 100  # lines of a room, and of an inbox


def room(turn):
    """A room knows who is there, and what was said last."""
    state = turn["state"] or {"members": [], "lines": []}
    answer = {"state": state}
    if turn["function"] == "say":
        user, text = turn["body"]["user"], turn["body"]["text"]
        if not text:
            return {"error": "nothing was said"}  # changes nothing
        if user not in state["members"]:
            call("User", user, "enter", {"room": turn["key"]}, turn["turn"])
            state["members"].append(user)
        line = {"room": turn["key"], "user": user, "text": text}
        state["lines"] = (state["lines"] + [line])[-KEPT:]
        # Sends leave with the new state: each has one effect, whatever fails.
        answer["sends"] = [
            {"to": {"type": "User", "key": member}, "function": "hear", "body": line}
            for member in state["members"]
            if member != user
        ]
    answer["body"] = state["lines"]
    # A policy can keep those together who belong together.
    answer["references"] = {"members": [{"type": "User", "key": m} for m in state["members"]]}
    answer["metrics"] = {"members": len(state["members"])}
    return answer


def user(turn):
    """A user has an inbox."""
    state = turn["state"] or {"rooms": [], "inbox": []}
    if turn["function"] == "enter":
        # A turn that a failure interrupts is done again, and so are its calls.
        if turn["body"]["room"] not in state["rooms"]:
            state["rooms"].append(turn["body"]["room"])
    elif turn["function"] == "hear":
        state["inbox"] = (state["inbox"] + [turn["body"]])[-KEPT:]
    return {
        "state": state,
        "body": state["inbox"],
        "references": {"rooms": [{"type": "Room", "key": r} for r in state["rooms"]]},
    }


BEHAVIOR = {"Room": room, "User": user}
TYPES = {
    "types": [
        {"name": "Room", "durable": "each-turn", "functions": ["say", "read"]},
        {"name": "User", "durable": "each-turn", "functions": ["enter", "hear", "read"]},
    ]
}


def call(kind, key, function, body, turn=None):
    """Calls an actor, wherever it is: within a turn, or for a client."""
    path = "/".join(urllib.parse.quote(part, safe="") for part in (kind, key, function))
    headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
    if turn:
        headers["Plasma-Turn"] = turn
    request = urllib.request.Request(URL + "/v1/call/" + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = 1 << 16  # head and body leave together

    def do_GET(self):
        if self.path == "/plasma/types":
            self.plasma(lambda: TYPES)
        else:
            self.client("users", lambda key: call("User", key, "read", None))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/plasma/turn":
            turn = json.loads(body)
            self.plasma(lambda: BEHAVIOR[turn["type"]](turn))
        else:
            say = lambda room, user: call("Room", room, "say", {"user": user, "text": body.decode()})
            self.client("rooms", say)

    def plasma(self, answer):
        """Answers the sidecar, and nobody else."""
        if self.headers.get("Authorization") != AUTHORIZATION:
            self.answer(401, {"error": "only the sidecar may ask for that"})
            return
        try:
            self.answer(200, answer())
        except urllib.error.HTTPError as e:  # a call that failed: the turn changes nothing
            self.answer(200, {"error": json.load(e)["error"]["message"]})
        except Exception as e:  # what the body or the state lacks, too
            self.answer(200, {"error": repr(e)})

    def client(self, what, answer):
        """Answers a client, of a path that begins with what."""
        parts = [urllib.parse.unquote(part) for part in self.path.split("/")[1:]]
        try:
            if parts[0] != what:
                raise TypeError
            self.answer(200, answer(*parts[1:]))
        except TypeError:
            self.answer(404, {"error": "POST /rooms/ROOM/USER or GET /users/USER"})
        except urllib.error.HTTPError as e:  # with the code, and when to try again
            self.answer(e.code, json.load(e), e.headers.get("Retry-After"))

    def answer(self, status, value, retry=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256

    def server_bind(self):  # HTTPServer's asks DNS for the host's name, which may take seconds
        socketserver.TCPServer.server_bind(self)


if __name__ == "__main__":
    Server(("", int(os.environ["PORT"])), Handler).serve_forever()
