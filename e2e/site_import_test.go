// SPDX-License-Identifier: MIT

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// corpus are the files of others that the importers are tested with.
const corpus = "../internal/config/testdata"

// imported makes a configuration of a file of the corpus.
func (s *site) imported(file string) string {
	s.t.Helper()
	r := s.shunt(s.Director, "import", filepath.Join(corpus, file)).want(s.t, 0)
	path := filepath.Join(filepath.Dir(s.path), strings.ReplaceAll(file, "/", "-")+".yaml")
	if err := os.WriteFile(path, []byte(r.stdout), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.shunt(s.Director, "check", path).want(s.t, 0)
	return path
}

// runsCorpus puts each of these files of the corpus in force, one after the other.
// All their networks are on the director's link, where nobody answers.
func (s *site) runsCorpus(pattern string) {
	for _, n := range []string{"10.0.0.0/8", "192.0.2.0/24", "192.168.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"} {
		s.sh(s.Director, "ip route add "+n+" dev eth0")
	}
	s.sh(s.Director, "ip link add lvs0 type veth peer name lvs1; ip link set lvs1 up; ip link set lvs0 up") // of keepalived/pair.conf
	s.begin(head + talking)
	files, err := filepath.Glob(filepath.Join(corpus, pattern))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no %s: %v", pattern, err)
	}
	ran := 0
	for _, f := range files {
		f, _ = strings.CutPrefix(f, corpus+"/")
		if slices.Contains([]string{"ldirectord/reals.cf", "ipvsadm/names.save"}, f) {
			s.shunt(s.Director, "import", filepath.Join(corpus, f)).want(s.t, 1) // it has names that nobody here knows
			continue
		}
		path := s.imported(f)
		r := s.shunt(s.Director, "apply", path)
		if r.code == 1 && strings.Contains(r.stderr, "needs a restart") {
			s.director("stop", "--keep-forwarding")
			r = s.shunt(s.Director, "director", "start", "--config", path, "--debug")
		}
		if r.code != 0 {
			s.t.Errorf("%s does not run: %v", f, r)
			continue
		}
		ran++
		s.shunt(s.Director, "diff", path).want(s.t, 0)
		if c := s.inForce(); c.Path != path || len(c.Drift) != 0 {
			s.t.Errorf("%s: %s is in force, with drift %v", f, c.Path, c.Drift)
		}
	}
	s.t.Logf("%d files run", ran)
}

// runsImportedWeb has two of them with the servers that they name.
func (s *site) runsImportedWeb() {
	s.serveWeb()
	page := func(server int) string { return filepath.Join(s.pages[server-1].dir, "www", "healthz") }
	for i := range s.pages {
		if err := os.WriteFile(page(i+1), []byte("ok\n"), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.director("start", "--config", s.imported("keepalived/web.conf"), "--interface", "eth0", "--connections", "65536", "--debug")
	web := s.spell("VIP:80")
	s.becomes(web+" RS1 up", web+" RS2 up", web+" 172.16.16.180 unused")
	s.get(4)
	s.say("apply", s.imported("ldirectord/web.cf"))
	s.becomes(web+" RS1 up", web+" RS2 up", web+" 127.0.0.1 unused")
	s.get(4)
	if err := os.Remove(page(1)); err != nil {
		s.t.Fatal(err)
	}
	s.becomes(web+" RS1 down", web+" RS2 up")
	if by := s.get(4); by["rs2"] != 4 {
		s.t.Errorf("with the first server down %v answer", by)
	}
}
