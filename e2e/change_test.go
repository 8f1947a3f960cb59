// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestNoLossOnChange makes a change of each kind again and again for two minutes,
// while clients of each kind check every byte (checked_test.go). They must not
// notice: no request fails, no connection is lost, all are counted once, and none
// in the end. Each kind is in a cluster of its own, and all are at work at the same
// time.
func TestNoLossOnChange(t *testing.T) {
	other := otherProgram(t)
	lasts := 2 * time.Minute
	if testing.Short() {
		lasts = 15 * time.Second
	}
	var kinds sync.WaitGroup
	for _, k := range []struct {
		name    string
		servers int
		ports   []int    // further ones, of services that the clients ask
		allowed []string // ways of packets that are not simply forwarded
		change  func(*changing)
	}{
		{"rules", 3, nil, []string{"drop_removed"}, (*changing).editRules},
		{"reload", 2, askedPorts(), nil, (*changing).reload},
		{"kill", 2, nil, nil, (*changing).killAndStart},
		{"leave", 2, nil, nil, (*changing).leaveAndStart},
		{"upgrade", 2, nil, []string{"drop_moving"}, func(c *changing) { c.upgrade(other) }},
	} {
		// Not t.Parallel, which would not let more run than there are CPUs.
		kinds.Go(func() {
			t.Run(k.name, func(t *testing.T) {
				c := &changing{cluster: newCluster(t, lab.Options{RealServers: k.servers}), restore: filepath.Join(t.TempDir(), "ipvsadm-restore")}
				if err := os.Symlink(program, c.restore); err != nil {
					t.Fatal(err)
				}
				pages := c.everyKind(k.ports...)
				c.prepare(k.ports)
				c.checked = c.check(pages, k.ports...)
				for end := time.Now().Add(lasts); time.Now().Before(end); c.round++ {
					k.change(c)
				}
				t.Logf("%d rounds", c.round)
				if c.cut > 0 {
					t.Logf("%d of the kills were in the middle of a change", c.cut)
				}
				c.checked.stop()
				c.checked.only(k.allowed...)
				c.checked.counted()
				c.checked.finish()
			})
		})
	}
	kinds.Wait()
}

// changing is a cluster that is changed while clients are at work.
type changing struct {
	*cluster
	checked *checked
	round   int    // from 0
	restore string // the path of ipvsadm-restore
	cut     int    // how often the daemon was killed before it had answered a change
}

// askedPorts are those of services beside everyKind's whose clients are at work.
func askedPorts() []int { return []int{8000, 8001, 8002, 8003} }

func (c *changing) prepare(ports []int) {
	for _, p := range ports {
		c.rules(fmt.Sprintf("-A -t VIP:%d -s rr", p), fmt.Sprintf("-a -t VIP:%d -r RS1", p), fmt.Sprintf("-a -t VIP:%d -r RS2", p))
	}
}

// anyScheduler is one that always finds a server while there is one of a weight
// above 0. (ovf does not if all have more connections than their weight, dh, sh and
// mh do not, without flags, if it is another one's turn.)
func anyScheduler() string {
	all := []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sed", "nq", "fo", "twos", "sh -b sh-fallback", "mh -b mh-fallback"}
	return all[rand.IntN(len(all))]
}

// editRules is what an operator does in a day.
func (c *changing) editRules() {
	v6 := "[" + lab.VIP6().String() + "]"
	c.rules("-E -t VIP:80 -s "+anyScheduler(), "-E -t VIP:9 -s "+anyScheduler()+" -p 300", "-E -u VIP:53 -s "+anyScheduler(),
		"-E -t "+v6+":7 -s "+anyScheduler(), "--set 800 100 250",
		fmt.Sprintf("-e -t VIP:80 -r RS1 -w %d", 1+rand.IntN(5)), "-e -t VIP:80 -r RS3 -w 2 -x 1000 -y 500", "-e -u VIP:53 -r RS2 -w 3")
	c.checked.goOn("after edits")

	// A server is quiesced, its connections are waited for, and it is removed.
	c.takeOut("-t VIP:80", "-r RS2", "TCP "+c.spell("VIP:80"), c.spell("RS2:80"))
	rip6 := "[" + c.RealServers[c.round%3].Addr6().String() + "]"
	c.takeOut("-t "+v6+":80", "-r "+rip6+":80", "TCP "+v6+":80", rip6+":80")

	// One that is removed while its connections last, and comes back soon: nothing
	// of theirs goes to another server meanwhile, and TCP sends it again.
	rs := fmt.Sprintf("RS%d", 1+c.round%3)
	c.rules("-E -t VIP:7 -s "+anyScheduler()+" --expire-nodest-conn 0", "-d -t VIP:7 -r "+rs)
	time.Sleep(rand.N(300 * time.Millisecond)) // what clients do meanwhile is the test
	c.rules("-a -t VIP:7 -r " + rs)
	c.checked.goOn("with a removed server back")

	// Quiesced servers keep their connections.
	c.rules("-e -t VIP:9 -r RS1 -w 0", "-e -t "+v6+":7 -r "+rip6+":7 -w 0", "-e -u VIP:53 -r RS2 -w 0")
	c.checked.goOn("with quiesced servers")
	c.rules("-e -t VIP:9 -r RS1 -w 1", "-e -t "+v6+":7 -r "+rip6+":7 -w 1", "-e -u VIP:53 -r RS2 -w 1",
		"--set 900 120 300", "-E -t VIP:80 -s wlc", "-e -t VIP:80 -r RS3 -w 1")

	// Services come and go beside.
	c.rules("-A -t VIP:82 -s rr", "-a -t VIP:82 -r RS1", "-A -t VIP:0 -s wlc -p 100", "-a -t VIP:0 -r RS3", "--add-mark 7 -t VIP:90-99", "-A -f 7 -s rr", "-a -f 7 -r RS2")
	c.checked.goOn("with more services")
	c.rules("-D -t VIP:82", "-D -f 7", "--delete-mark 7 -t VIP:90-99", "-D -t VIP:0")
}

// takeOut takes a server out gently, and puts it back.
func (c *changing) takeOut(service, server, listed, at string) {
	c.t.Helper()
	c.rules("-e " + service + " " + server + " -w 0")
	c.checked.goOn("with " + server + " quiesced") // whoever was about to connect has
	eventually(c.t, at+" to have no active connections", func() bool { return c.table("")[listed][at][1] == 0 })
	c.rules("-d " + service + " " + server)
	c.checked.goOn("without " + server)
	c.rules("-a " + service + " " + server)
}

// reload replaces a thousand services by a thousand others, of which most are the
// same: by the rules file, or by ipvsadm-restore.
func (c *changing) reload() {
	text := strings.Join(c.thousand(), "\n") + "\n"
	how := "director reload"
	if c.round%2 == 0 {
		if err := os.WriteFile(api.Places{Instance: instanceOf(c.Director)}.Rules(), []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
		c.director("reload")
	} else {
		how = "ipvsadm-restore"
		commandWith(c.t, c.Director, []string{"SHUNT_INSTANCE=" + instanceOf(c.Director)}, text, c.restore).want(c.t, 0)
	}
	if got, want := len(c.table("")), strings.Count(text, "-A "); got != want {
		c.t.Errorf("%s: %d services are listed, of %d", how, got, want)
	}
	c.checked.goOn("after " + how)
}

// thousand are rules of about a thousand services. Those that clients ask are
// always there, with other schedulers and weights each time.
func (c *changing) thousand() (lines []string) {
	scheduler, weight := regexp.MustCompile(`-s \w+`), regexp.MustCompile(`-w \d+`)
	quiet := "" // the service that has a quiesced server
	for _, line := range c.everyService() {
		if strings.HasPrefix(line, "-A") && rand.IntN(3) > 0 {
			line = scheduler.ReplaceAllString(line, "-s "+anyScheduler())
		}
		w := 1 + rand.IntN(4)
		if service := strings.Join(strings.Fields(line)[1:3], " "); strings.HasPrefix(line, "-a") && service != quiet && rand.IntN(8) == 0 {
			quiet, w = service, 0
		}
		lines = append(lines, weight.ReplaceAllString(line, fmt.Sprint("-w ", w)))
	}
	ports := slices.Concat(askedPorts(), make([]int, 990))
	for i := range ports {
		if ports[i] == 0 {
			ports[i] = 10000 + i
		}
		if i >= len(askedPorts()) && (i+c.round)%7 == 0 {
			continue
		}
		s := "rr"
		if (i+c.round)%5 == 0 || i < len(askedPorts()) {
			s = anyScheduler()
		}
		lines = append(lines, c.spell(fmt.Sprintf("-A -t VIP:%d -s %s", ports[i], s)))
		for n := range c.RealServers {
			lines = append(lines, c.spell(fmt.Sprintf("-a -t VIP:%[1]d -r RS%[2]d:%[1]d -g -w %[3]d", ports[i], n+1, 1+(i+c.round)%11/10)))
		}
	}
	return lines
}

// killAndStart kills the daemon, each other time while it makes a change of a
// thousand services, sees that all goes on without one, and starts the next.
func (c *changing) killAndStart() {
	before := c.lasting()
	if c.round%2 == 0 {
		c.kill()
	} else {
		c.killAtReload()
	}
	c.withoutDaemon()
	c.director("start", "--debug")
	c.tookOver(before)
}

// killAtReload kills the daemon at some moment of a change of all rules.
func (c *changing) killAtReload() {
	c.t.Helper()
	pid := c.status().PID
	cmd := c.Director.Command(c.t.Context(), c.restore)
	cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(c.Director))
	cmd.Stdin = strings.NewReader(strings.Join(c.thousand(), "\n") + "\n")
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(rand.N(600 * time.Millisecond)) // any moment will do
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	if cmd.Wait() != nil {
		c.cut++
	}
	eventually(c.t, "the end of the killed daemon", func() bool { return ended(pid) })
}

// leaveAndStart is the same with a stop.
func (c *changing) leaveAndStart() {
	before := c.lasting()
	c.director("stop", "--keep-forwarding")
	c.shunt(c.Director, "director", "status").want(c.t, 1).says(c.t, "keeps forwarding")
	c.withoutDaemon()
	c.director("start", "--debug")
	c.tookOver(before)
}

// upgrade goes to a program whose maps are laid out otherwise, and back, and to
// tables of another size, by either way to end the daemon.
func (c *changing) upgrade(other string) {
	before := c.lasting()
	if c.round%4 < 2 {
		c.director("stop", "--keep-forwarding")
	} else {
		c.kill()
	}
	size := []string{"524288", "1048576"}[c.round/2%2]
	c.run(c.Director, []string{other, program}[c.round%2], "director", "start", "--debug", "--connections", size).want(c.t, 0)
	c.tookOver(before)
}

func (c *changing) withoutDaemon() {
	c.t.Helper()
	c.checked.goOn("without a daemon")
	if r := c.shunt(c.Director, "ipvsadm", "-Ln"); r.code == 0 || r.stderr == "" {
		c.t.Errorf("without a daemon: %v", r)
	}
}

// tookOver sees that a new daemon knows what there was, and obeys.
func (c *changing) tookOver(before []string) {
	c.t.Helper()
	if s := c.status(); !s.TookOver {
		c.t.Error("the new daemon says that it did not take over")
	}
	if after := c.lasting(); !slices.Equal(before, after) {
		c.t.Errorf("lasting connections were listed as\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	// Not 0: a restore may have quiesced the other one.
	c.rules(fmt.Sprintf("-e -t VIP:80 -r RS2 -w %d", 1+c.round%3))
	c.checked.goOn("with the new daemon")
}

// lasting is how ipvsadm lists the connections that are open all the time.
func (c *changing) lasting() (lines []string) {
	c.t.Helper()
	all := c.connections("ESTABLISHED")
	for _, w := range c.checked.lasting {
		i := slices.IndexFunc(all, func(line string) bool { return strings.Contains(line, " "+w.LocalAddr().String()+" "+w.to+" ") })
		if i < 0 {
			c.t.Fatalf("the connection from %v to %s is not listed", w.LocalAddr(), w.to)
		}
		lines = append(lines, all[i])
	}
	return lines
}
