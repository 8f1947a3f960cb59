// SPDX-License-Identifier: MIT

package lvs

// Counters are what passed since the last zeroing. Bytes are counted from the
// IP header on, as IPVS does. There is no outgoing side in direct routing.
type Counters struct {
	Connections uint64 `json:"connections"`
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
}

// Rates are Counters per second, smoothed as IPVS does: sampled every 2 s, each
// sample weighing a quarter (net/netfilter/ipvs/ip_vs_est.c).
type Rates Counters

// ServerStatus is what the data plane knows of one real server.
type ServerStatus struct {
	ServerID
	Active     uint32 `json:"active"`     // ActiveConn
	Inactive   uint32 `json:"inactive"`   // InActConn
	Persistent uint32 `json:"persistent"` // PersistConn: templates
	// Local: it is the director itself, which answers from its own stack.
	Local    bool     `json:"local,omitempty"`
	Counters Counters `json:"counters"`
	Rates    Rates    `json:"rates"`
}

// ServiceStatus is what the data plane knows of one virtual service. Its
// counters include those of servers since removed.
type ServiceStatus struct {
	ServiceID
	Counters Counters       `json:"counters"`
	Rates    Rates          `json:"rates"`
	Servers  []ServerStatus `json:"servers"`
}

// Server returns the status of one real server, or the zero value.
func (s *ServiceStatus) Server(id ServerID) ServerStatus {
	for i := range s.Servers {
		if s.Servers[i].ServerID == id {
			return s.Servers[i]
		}
	}
	return ServerStatus{ServerID: id}
}
