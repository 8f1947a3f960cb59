// SPDX-License-Identifier: MIT

package dataplane

import (
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// samplePeriod is how often IPVS's estimator looks (ip_vs_est.c).
const samplePeriod = 2 * time.Second

// estimator is IPVS's: an average that moves by a quarter of the way to each
// sample. Averages of connections and packets are scaled by 2^10, of bytes by
// 2^5, and rounded as IPVS rounds them.
type estimator struct {
	seen    bool
	last    lvs.Counters
	average [3]int64
}

// estimators are the averages by server and by service id.
type estimators struct{ servers, services estimates }

// estimates are those of ids. An id that is not in it has none yet.
type estimates []estimator

func (e estimates) of(id uint32) estimator {
	if int(id) < len(e) {
		return e[id]
	}
	return estimator{}
}

func (e estimates) forget(id uint32) {
	if int(id) < len(e) {
		e[id] = estimator{}
	}
}

// next takes a sample of an id.
func (e *estimates) next(id uint32, now lvs.Counters) {
	if more := int(id) + 1 - len(*e); more > 0 {
		*e = append(*e, make(estimates, more)...)
	}
	(*e)[id] = (*e)[id].next(now)
}

// next takes a sample.
func (e estimator) next(now lvs.Counters) estimator {
	if e.seen {
		delta := subCounters(now, e.last)
		// The sample's period of 2 s takes one bit off the scale.
		for i, rate := range []int64{int64(delta.Connections) << 9, int64(delta.Packets) << 9, int64(delta.Bytes) << 4} {
			e.average[i] += (rate - e.average[i]) >> 2
		}
	}
	e.seen, e.last = true, now
	return e
}

func (e estimator) rates() lvs.Rates {
	return lvs.Rates{
		Connections: uint64(e.average[0]+0x1ff) >> 10,
		Packets:     uint64(e.average[1]+0x1ff) >> 10,
		Bytes:       uint64(e.average[2]+0xf) >> 5,
	}
}
