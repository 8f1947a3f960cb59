// SPDX-License-Identifier: MIT

package dataplane

// idPool hands out the indices of an array map, lowest unused first.
type idPool struct {
	limit uint32
	next  uint32
	freed []uint32
}

// newIDPool returns a pool of limit ids of which some are in use.
func newIDPool(limit uint32, used map[uint32]bool) *idPool {
	p := &idPool{limit: limit}
	for id := range used {
		p.next = max(p.next, id+1)
	}
	for id := p.next; id > 0; id-- {
		if !used[id-1] {
			p.freed = append(p.freed, id-1)
		}
	}
	return p
}

func (p *idPool) take() (uint32, bool) {
	if n := len(p.freed); n > 0 {
		id := p.freed[n-1]
		p.freed = p.freed[:n-1]
		return id, true
	}
	if p.next == p.limit {
		return 0, false
	}
	p.next++
	return p.next - 1, true
}

// left is how many there are to take.
func (p *idPool) left() int { return int(p.limit-p.next) + len(p.freed) }

func (p *idPool) give(id uint32) { p.freed = append(p.freed, id) }
