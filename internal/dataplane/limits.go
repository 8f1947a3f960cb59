// SPDX-License-Identifier: MIT

package dataplane

import "github.com/cilium/ebpf"

// How much the maps have room for. They are allocated once, when the maps are
// made; connections are Options.Connections.
const (
	maxServices    = 1 << 14
	maxSlots       = 2 * maxServices // versions: a change writes a new one beside the old
	maxListeners   = 1 << 15         // of each family: addresses and ports that services have
	maxIDs         = 1 << 16         // of services and of listeners, also removed ones that still have connections
	maxServers     = 1 << 17         // those that are removed and still have connections included
	maxMembers     = 1 << 19
	maxHashSlots   = 1 << 23
	maxGroups      = maxSlots + maxMembers/groupSize // of servers in long lists
	maxPerService  = 1<<16 - 1                       // servers; a turn has 16 bits for its place
	defaultEntries = 1 << 20
	maxEntries     = 1 << 28
	maxDenied      = 1 << 15 // prefixes on deny lists
	maxFragmented  = 1 << 15 // datagrams in fragments that are noted at a time
	ways           = uint32(len(bpfBucket{}.Way))
	groupSize      = uint32(bpfGroupingGROUP)
	spillWords     = uint32(len(bpfSpillCounts{}.Word)) // in an element
)

// size sets the maps' sizes in the specification.
func size(spec *ebpf.CollectionSpec, connections uint32) {
	for name, entries := range map[string]uint32{
		bpfMapListeners:      maxListeners,
		bpfMapListeners6:     maxListeners,
		bpfMapVips:           maxServices,
		bpfMapFragments:      maxFragmented,
		bpfMapDenied:         2 * maxDenied, // a list is changed beside the one in use
		bpfMapServices:       maxSlots,
		bpfMapTurns:          maxIDs,
		bpfMapServiceBases:   maxIDs,
		bpfMapMembers:        maxMembers,
		bpfMapGroups:         maxGroups,
		bpfMapHashSlots:      maxHashSlots / 2, // an element has two
		bpfMapServers:        maxServers,
		bpfMapLoads:          maxServers,
		bpfMapLimits:         maxServers,
		bpfMapServerCounters: maxServers,
		bpfMapServerBases:    maxServers,
		bpfMapSeeds:          maxServers,
		bpfMapYoungs:         maxServers,
		bpfMapConnections:    buckets(connections),
		// Most sites have fewer of these; an entry takes twice the room.
		bpfMapWideConnections: max(buckets(connections)/2, 1),
		bpfMapTemplates:       min(max(buckets(connections)/4, 1), 1<<bpfLayoutTEMPLATE_BITS/ways),
	} {
		spec.Maps[name].MaxEntries = entries
	}
	sizeSpills(spec)
}

// sizeSpills goes by the tables' sizes: two words of each bucket, four of a wide
// one (bpf/connection.h).
func sizeSpills(spec *ebpf.CollectionSpec) {
	spec.Maps[bpfMapSpills].MaxEntries = max(spec.Maps[bpfMapConnections].MaxEntries*2/spillWords, 1)
	spec.Maps[bpfMapWideSpills].MaxEntries = max(spec.Maps[bpfMapWideConnections].MaxEntries*4/spillWords, 1)
}

// buckets returns how many buckets a table for that many connections has.
func buckets(connections uint32) uint32 {
	if connections == 0 {
		connections = defaultEntries
	}
	connections = min(connections, maxEntries)
	n := uint32(1)
	for n*ways < connections {
		n *= 2
	}
	return n
}
