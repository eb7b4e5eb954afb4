// Package tpcc is like TPC-C: warehouses with districts and their customers, and transactions
// of five kinds, of which few reach beyond their warehouse.
package tpcc

import (
	"embed"
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/apps/cluster"
	"github.com/peregrine-dev/peregrine/plasma/apps/load"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Files are the policies, the manifest and the README.
//
//go:embed policy.epl policy.paper.epl manifest.toml README.md
var Files embed.FS

// Summary is one line.
const Summary = "like TPC-C: warehouses, their districts and customers; few remote transactions"

// Sizes, and all transactions per second in the mean.
const (
	length       = 6 * time.Minute
	warehouses   = 24
	districts    = 10 // of each warehouse
	transactions = 60

	// remoteLine is how likely one of a new order's lines is of another warehouse, of lines as
	// many as there are in the mean; remotePayment how likely a payment is.
	remoteLine    = 0.01
	lines         = 10
	remotePayment = 0.15
)

// mix is how many of a hundred transactions are of each kind, by its function.
var mix = []struct {
	function string
	share    float64
}{{"new_order", .45}, {"payment", .43}, {"order_status", .04}, {"delivery", .04}, {"stock_level", .04}}

// curve is opening hours: few terminals in the morning, most at noon.
var curve = load.Day(.55, 1.45, length, 1)

// World draws one.
func World(seed uint64, stationary bool) *world.World {
	w := cluster.New("tpcc", seed, length)
	dice := cluster.Dice(seed)
	w.Types["District"] = world.Type{Functions: map[string]world.Function{
		"new_order": {Service: cluster.Varies(34, .4), Bytes: 2048, Calls: []world.Call{
			{Property: "warehouse", Function: "stock", Wait: true},
			{Property: "others", Function: "stock", Probability: remoteOrder(), Wait: true},
		}},
		"payment": {Service: cluster.Uses(17), Bytes: 512, Calls: []world.Call{
			{Property: "warehouse", Function: "pay", Wait: true},
			{Property: "customers", Function: "pay", Probability: 1 - remotePayment, Wait: true},
			{Property: "strangers", Function: "pay", Probability: remotePayment, Wait: true},
		}},
		"order_status": {Service: cluster.Uses(8), Bytes: 256, Calls: []world.Call{{Property: "customers", Function: "status", Wait: true}}},
		"delivery":     {Service: cluster.Uses(68), Bytes: 256, Calls: []world.Call{{Property: "customers", Function: "pay"}}},
		"stock_level":  {Service: cluster.Uses(68), Bytes: 256, Calls: []world.Call{{Property: "warehouse", Function: "stock", Wait: true}}},
	}}
	w.Types["Warehouse"] = world.Type{Functions: map[string]world.Function{
		"stock": {Service: cluster.Uses(17), Bytes: 1024},
		"pay":   {Service: cluster.Uses(8), Bytes: 256},
	}}
	w.Types["Customers"] = world.Type{Functions: map[string]world.Function{
		"pay":    {Service: cluster.Uses(14), Bytes: 512},
		"status": {Service: cluster.Uses(14), Bytes: 256},
	}}
	houses := cluster.IDs("warehouse", warehouses)
	customers := make([][]string, warehouses)
	for i := range houses {
		customers[i] = cluster.IDs(fmt.Sprintf("customers-%d", i), districts)
	}
	for i, house := range houses {
		own := cluster.IDs(fmt.Sprintf("district-%d", i), districts)
		w.Actors = append(w.Actors, cluster.Actor(house, "Warehouse", cluster.MiB, map[string][]string{"districts": own}))
		for k, district := range own {
			others := load.Pick(dice, houses, 3, house)
			other := (i + 1 + dice.IntN(warehouses-1)) % warehouses
			w.Actors = append(w.Actors,
				cluster.Actor(district, "District", 256*cluster.KiB, map[string][]string{
					"warehouse": {house}, "others": others,
					"customers": {customers[i][k]}, "strangers": load.Pick(dice, customers[other], 3, ""),
				}),
				cluster.Actor(customers[i][k], "Customers", 512*cluster.KiB, nil))
		}
	}
	for _, m := range mix {
		w.Streams = append(w.Streams, world.Stream{
			Type: "District", Function: m.function, Rate: curve.Rate(transactions*m.share, length, stationary),
		})
	}
	return cluster.Finish(w)
}

// remoteOrder is how likely a new order has a line of another warehouse.
func remoteOrder() float64 {
	local := 1.0
	for range lines {
		local *= 1 - remoteLine
	}
	return 1 - local
}
