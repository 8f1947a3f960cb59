// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// premises are a client, a real server with nginx and iperf3, and a director for
// each way from one to the other, which only the straight one does without.
type premises struct {
	*session
	*lab.Cluster
	shunt string // the program
	dir   string // nginx's
	ways  []way
	seen  []uint64 // packets that each way's director has sent on so far
}

// way is how the client gets to the real server.
type way struct {
	name     string
	to       netip.Addr
	director *lab.Node // nil: there is none
}

const (
	webServerPort = 80
	iperfPort     = 5201
	patience      = 30 * time.Second // with any command
)

func (s *session) openPremises(o lab.Options, modes []dataplane.Mode) (_ *premises, err error) {
	p := &premises{session: s}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.shunt, err = shuntProgram(); err != nil {
		return nil, err
	}
	if p.Cluster, err = lab.Up(s.ctx, o); err != nil {
		return nil, err
	}
	if err := p.addWays(modes); err != nil {
		return nil, err
	}
	for _, n := range p.Nodes() {
		if err := forgetInstance(n); err != nil { // of a run that was killed
			return nil, err
		}
	}
	if err := p.startServers(); err != nil {
		return nil, err
	}
	if err := p.startDirectors(); err != nil {
		return nil, err
	}
	p.seen, err = p.forwarded()
	return p, err
}

// shuntProgram is the product's, which is made beside this one.
func shuntProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "shunt")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the program shunt has to be beside this one (make does that): %w", err)
	}
	return path, nil
}

// Close stops shunt everywhere, and removes what it keeps for its next start.
func (p *premises) Close() error {
	var errs []error
	if p.Cluster != nil {
		stop := func(n *lab.Node, role string) {
			_, err := p.run(context.WithoutCancel(p.ctx), n, p.shunt, role, "stop")
			errs = append(errs, err, forgetInstance(n))
		}
		for _, w := range p.ways {
			if w.director != nil {
				stop(w.director, "director")
			}
		}
		stop(p.RealServers[0], "realserver")
		errs = append(errs, p.Down())
	}
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}

func forgetInstance(n *lab.Node) error {
	at := api.Places{Instance: n.Namespace()}
	return errors.Join(dataplane.RemovePins(at.Pins(), at.Instance), os.RemoveAll(at.Run()), os.RemoveAll(at.State()))
}

// run runs a command on a machine, in the manner of that machine's admin.
func (p *premises) run(ctx context.Context, n *lab.Node, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := n.Command(ctx, name, args...)
	c.Env = append(os.Environ(), "SHUNT_INSTANCE="+n.Namespace())
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w: %s%s", n.Name(), filepath.Base(name), strings.Join(args, " "), err, out, said.Bytes())
	}
	return out, err
}

// The least that answers.
const webServerConfig = `daemon off;
user root;
worker_processes 1;
pid DIR/pid;
error_log DIR/error.log;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	keepalive_requests 100000000;
	server {
		listen PORT backlog=4096;
		location / { default_type text/plain; return 200 "NAME\n"; }
	}
}
`

// startServers starts nginx and iperf3, and waits until they answer.
func (p *premises) startServers() (err error) {
	rs := p.RealServers[0]
	if p.dir, err = os.MkdirTemp("", "bench-nginx-"); err != nil {
		return err
	}
	config := strings.NewReplacer("DIR", p.dir, "PORT", strconv.Itoa(webServerPort), "NAME", rs.Name()).Replace(webServerConfig)
	conf := filepath.Join(p.dir, "conf")
	if err := os.WriteFile(conf, []byte(config), 0o644); err != nil {
		return err
	}
	for port, args := range map[int][]string{
		webServerPort: {"nginx", "-e", filepath.Join(p.dir, "error.log"), "-c", conf},
		iperfPort:     {"iperf3", "--server"},
	} {
		c := rs.Command(p.ctx, args[0], args[1:]...)
		if err := c.Start(); err != nil {
			return fmt.Errorf("%s: %w (make bench installs it)", args[0], err)
		}
		go c.Wait() // it ends with the lab
		if err := p.answers(rs, port); err != nil {
			return fmt.Errorf("%s does not answer: %w", args[0], err)
		}
	}
	return nil
}

func (p *premises) answers(n *lab.Node, port int) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		c, err := n.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// addWays makes a machine for the director of each mode, with a VIP of its own:
// the reference's, and those below it.
func (p *premises) addWays(modes []dataplane.Mode) (err error) {
	p.ways = []way{{name: "straight", to: p.RealServers[0].Addr()}}
	to, addr := lab.VIP(), p.RealServers[0].Addr()
	for i, mode := range modes {
		w := way{name: string(mode), to: to, director: p.Director}
		to, addr = to.Prev(), addr.Next()
		if i > 0 {
			if w.director, err = p.Add(w.name, netip.PrefixFrom(addr, 24)); err != nil {
				return err
			}
		}
		p.ways = append(p.ways, w)
	}
	return nil
}

// startDirectors starts those of all ways, and gives each a service of nginx and
// one of iperf3, with the one real server.
func (p *premises) startDirectors() error {
	rs := p.RealServers[0]
	errs := make([]error, len(p.ways))
	var started sync.WaitGroup
	for i, w := range p.ways[1:] {
		if _, err := p.run(p.ctx, rs, p.shunt, "realserver", "start", "--vip", w.to.String()); err != nil {
			return err
		}
		started.Go(func() { errs[i] = p.startDirector(w, rs.Addr().String()) })
	}
	started.Wait()
	return errors.Join(errs...)
}

func (p *premises) startDirector(w way, server string) error {
	commands := [][]string{{"director", "start", "--interface", "eth0", "--vip", w.to.String(), "--mode", w.name}}
	for _, port := range []int{webServerPort, iperfPort} {
		service := net.JoinHostPort(w.to.String(), strconv.Itoa(port))
		commands = append(commands, []string{"ipvsadm", "-A", "-t", service, "-s", "wlc"}, []string{"ipvsadm", "-a", "-t", service, "-r", server, "-g"})
	}
	for _, c := range commands {
		if _, err := p.run(p.ctx, w.director, p.shunt, c...); err != nil {
			return err
		}
	}
	return nil
}

// visit has the client do its work by one way, and looks whether the directors
// agree that it went there.
func (p *premises) visit(w way, does work, seconds int) (o outcome, err error) {
	args := does.command(w.to.String(), seconds)
	said, err := p.run(p.ctx, p.Client, args[0], args[1:]...)
	if err != nil {
		return o, err
	}
	if o, err = does.read(said, seconds); err != nil {
		return o, err
	}
	before := p.seen
	if p.seen, err = p.forwarded(); err != nil {
		return o, err
	}
	for i, other := range p.ways {
		n := float64(p.seen[i] - before[i])
		if other.name == w.name && other.director != nil && n < o.packets {
			return o, fmt.Errorf("%.0f packets or more were sent, and the director forwarded %.0f", o.packets, n)
		}
		if other.name != w.name && n > 0 {
			return o, fmt.Errorf("%.0f packets went by way of %s", n, other.name)
		}
	}
	return o, nil
}

// forwarded is how many packets each way's director has sent on. That it did
// something else with one in a thousand is an error; what it passes is not the
// services'.
func (p *premises) forwarded() ([]uint64, error) {
	all := make([]uint64, len(p.ways))
	for i, w := range p.ways {
		if w.director == nil {
			continue
		}
		out, err := p.run(p.ctx, w.director, p.shunt, "director", "status", "--json")
		if err != nil {
			return nil, err
		}
		var s api.Status
		if err := json.Unmarshal(out, &s); err != nil {
			return nil, fmt.Errorf("%s: what the director says of itself: %w", w.name, err)
		}
		other := reasons{}
		for _, v := range s.Verdicts {
			switch {
			case v.Action == "forward":
				all[i] += v.Packets
			case v.Action != "pass" && v.Packets > 0:
				other[v.Name] = v.Packets
			}
		}
		if other.sum() > all[i]/1000 {
			return nil, fmt.Errorf("%s: %d packets were forwarded, and of others there were %v", w.name, all[i], other)
		}
	}
	return all, nil
}
