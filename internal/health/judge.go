// SPDX-License-Identifier: MIT

package health

import "time"

// Flap keeps a server out that goes up and down all the time. The zero value
// does nothing.
type Flap struct {
	Changes int           // after so many changes
	Within  time.Duration // in so short a time
	Hold    time.Duration // it stays down so long, whatever its checks say
}

// Passive says when the connections of a server die so young that it is taken
// out before a check finds it.
type Passive struct {
	Window     time.Duration // what is looked at
	Minimum    int           // connections in it, below which nothing is concluded
	Unanswered float64       // share that never got beyond a SYN, or sent it again; 0: do not care
	Resets     float64       // share that the client reset; 0: do not care
	Hold       time.Duration // how long it is out before it is tried again; doubled each time, up to 10 times
	MostOut    float64       // share of the service's servers that may be out because of this
}
