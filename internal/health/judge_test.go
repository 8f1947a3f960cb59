// SPDX-License-Identifier: MIT

package health

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// answer is one of a check.
type answer struct {
	at time.Time
	i  int
	ok bool
}

// naive finds out whether a server was up after each answer, from all that ever
// happened: the rules once more, in the slow and plain way.
func naive(answers []answer, rules []rule, any bool, flap Flap, alpha bool, was *bool) []bool {
	first := !alpha
	if was != nil {
		first = *was
	}
	var ups []bool
	var changes []time.Time
	well := first
	var held time.Time
	for n := range answers {
		now := answers[n].at
		said := make([]bool, len(rules))
		for i := range rules {
			said[i] = naiveBelief(answers[:n+1], ups, i, rules[i], first, was == nil && alpha)
		}
		together := !slices.Contains(said, false)
		if any {
			together = slices.Contains(said, true)
		}
		changed := together != well
		if changed {
			changes = append(changes, now)
		}
		well = together
		expired := !held.IsZero() && !now.Before(held)
		if expired {
			held = time.Time{}
		}
		if (changed || expired) && held.IsZero() && flap.Changes > 0 {
			recent := 0
			for _, c := range changes {
				if now.Sub(c) <= flap.Within {
					recent++
				}
			}
			if recent >= flap.Changes {
				held, changes = now.Add(flap.Hold), nil
			}
		}
		ups = append(ups, well && held.IsZero())
	}
	return ups
}

// naiveBelief looks for the last time when check i had said the same often
// enough.
func naiveBelief(answers []answer, ups []bool, i int, r rule, first, alpha bool) bool {
	for end := len(answers); end > 0; end-- {
		if answers[end-1].i != i {
			continue
		}
		ok, same := answers[end-1].ok, 0
		for k := end - 1; k >= 0; k-- {
			if answers[k].i != i {
				continue
			}
			if answers[k].ok != ok {
				break
			}
			same++
		}
		rise := r.rise
		if alpha && !slices.Contains(ups[:end-1], true) {
			rise = 1
		}
		if ok && same >= rise {
			return true
		}
		if !ok && same >= r.fall {
			return false
		}
	}
	return first
}

func TestJudgeAgreesWithANaiveOne(t *testing.T) {
	held, upAgain := 0, 0
	property := func(t *rapid.T) {
		rules := make([]rule, rapid.IntRange(1, 3).Draw(t, "checks"))
		for i := range rules {
			rules[i] = rule{rapid.IntRange(1, 3).Draw(t, "rise"), rapid.IntRange(1, 3).Draw(t, "fall")}
		}
		any, alpha := rapid.Bool().Draw(t, "any"), rapid.Bool().Draw(t, "alpha")
		var was *bool
		if rapid.IntRange(0, 2).Draw(t, "restarted") == 0 {
			was = new(bool)
			*was = rapid.Bool().Draw(t, "was")
		}
		var flap Flap
		if rapid.Bool().Draw(t, "flap") {
			flap = Flap{Changes: rapid.IntRange(1, 4).Draw(t, "changes"), Within: 10 * time.Second, Hold: time.Duration(rapid.IntRange(1, 20).Draw(t, "hold")) * time.Second}
		}
		now := time.Unix(1e9, 0)
		rows := make([]row, len(rules))
		j := newJudge(rules, any, flap, alpha, was)
		up := j.up
		var answers []answer
		var got []bool
		for range rapid.IntRange(1, 60).Draw(t, "answers") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "seconds")) * time.Second)
			a := answer{now, rapid.IntRange(0, len(rules)-1).Draw(t, "check"), rapid.Bool().Draw(t, "ok")}
			answers = append(answers, a)
			rows[a.i].add(a.ok)
			wasHeld := !j.held.IsZero()
			changed := j.hear(now, a.i, rows[a.i])
			if changed != (j.up != up) {
				t.Fatalf("answer %d: changed is %v, and up went from %v to %v", len(answers), changed, up, j.up)
			}
			up = j.up
			got = append(got, up)
			if wasHeld {
				held++
				if up {
					upAgain++
				}
			}
		}
		if want := naive(answers, rules, any, flap, alpha, was); !slices.Equal(got, want) {
			t.Fatalf("up after each of %v:\n%v, want\n%v", answers, got, want)
		}
	}
	for range 20 {
		rapid.Check(t, property)
	}
	if held == 0 || upAgain == 0 {
		t.Errorf("%d answers while a server was held, %d of them brought it back: nothing was tried", held, upAgain)
	}
}

func TestJudge(t *testing.T) {
	up, down := true, false
	two := []rule{{2, 3}}
	for _, test := range []struct {
		name    string
		judge   judge
		answers string // of check 0: + and -, one a second
		want    string // u, d
	}{
		{"falls after three", newJudge(two, false, Flap{}, false, nil), "--+---", "uuuuud"},
		{"rises after two", newJudge(two, false, Flap{}, false, &down), "+-++", "dddu"},
		{"alpha rises after one", newJudge(two, false, Flap{}, true, nil), "-+---++", "duuudd" + "u"},
		{"alpha that was down needs two", newJudge(two, false, Flap{}, true, &down), "++", "du"},
		{"alpha that was up is up", newJudge(two, false, Flap{}, true, &up), "---", "uud"},
		{"flapping", newJudge([]rule{{1, 1}}, false, Flap{Changes: 3, Within: 5 * time.Second, Hold: 4 * time.Second}, false, nil),
			//s1 2 3 4 5 6 7 8 9
			"-+-+++++++", "duddddu" + "uuu"},
		{"still flapping after the hold", newJudge([]rule{{1, 1}}, false, Flap{Changes: 3, Within: 5 * time.Second, Hold: 4 * time.Second}, false, nil),
			"-+-+-++++++++", "dudddddddd" + "uuu"},
		{"slow changes are no flapping", newJudge([]rule{{1, 1}}, false, Flap{Changes: 3, Within: time.Second, Hold: time.Minute}, false, nil),
			"-+-+-+", "dududu"},
	} {
		now, got := time.Unix(1e9, 0), ""
		var r row
		for _, a := range test.answers {
			now = now.Add(time.Second)
			r.add(a == '+')
			test.judge.hear(now, 0, r)
			got += map[bool]string{true: "u", false: "d"}[test.judge.up]
		}
		if got != test.want {
			t.Errorf("%s: %s gives %s, want %s", test.name, test.answers, got, test.want)
		}
	}
}

func TestJudgeOfNoChecks(t *testing.T) {
	for _, any := range []bool{false, true} {
		for _, alpha := range []bool{false, true} {
			j := newJudge(nil, any, Flap{}, alpha, nil)
			if changed := j.settle(time.Unix(1, 0)); !j.up || changed != alpha {
				t.Errorf("any %v, alpha %v: up %v, changed %v", any, alpha, j.up, changed)
			}
		}
	}
}
