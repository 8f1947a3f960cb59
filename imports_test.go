// SPDX-License-Identifier: MIT

package shunt_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/shunt-lvs/shunt"

// layers are the house's floors, the lowest first. A package imports packages
// of lower floors only, so that whoever reads one has to know what is below it
// and nothing else.
var layers = []struct {
	packages []string
	why      string
}{
	{[]string{"internal/lvs"}, "the nouns: plain values that everyone may use and that use nobody"},
	{[]string{"internal/link"}, "the kernel's network state; it knows of no service and no packet"},
	{[]string{"internal/script"}, "a program that is run with limits, for whoever may run one"},
	{[]string{"internal/agent", "internal/ipvsadm", "internal/health", "internal/announce", "internal/realserver", "internal/dataplane", "internal/lab"},
		"one thing each; they are joined above, in director, so that each can be understood and tested alone"},
	{[]string{"internal/config"}, "a site's description: it names checks and reads the rule language"},
	{[]string{"internal/api"}, "what travels between a director and its clients; its types name the data plane's"},
	{[]string{"internal/director"}, "the one that joins"},
	{[]string{"cmd/shunt", "e2e", "internal/bench"}, "flags, wiring and exit codes; and the tests and measurements of the whole"},
}

// gates are the packages that alone import a library.
var gates = []struct {
	library string
	only    []string
	why     string
}{
	{"github.com/cilium/ebpf", []string{"internal/dataplane", "internal/lab", "internal/bench"}, "BPF objects have one owner (the lab only makes veth accept XDP, the benchmarks have their own)"},
	{"github.com/vishvananda/netlink", []string{"internal/link", "internal/lab"},
		"a change of kernel state that is not in link's journal cannot be undone (the lab's goes with its namespaces)"},
	{"github.com/safchain/ethtool", []string{"internal/link"}, "what an interface does to packets is link's to say"},
	{"github.com/spf13/cobra", []string{"cmd/shunt"}, "command lines end in cmd"},
	{"os/exec", []string{"cmd/shunt", "internal/lab", "internal/script"},
		"the product runs no other program (cmd runs itself, the lab what it is told to, script what the operator names, with limits)"},
	{"github.com/goccy/go-yaml", []string{"internal/config"}, "who reads the file says where in it something is wrong"},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if p.ImportPath == module {
			continue
		}
		floor, ok := layerOf(name)
		if !ok {
			t.Errorf("%s is in no layer: decide who may import it, and add it to this test and to docs/design.md", name)
			continue
		}
		for _, imported := range p.Imports {
			checkImport(t, name, floor, imported, false)
		}
		for _, imported := range append(p.TestImports, p.XTestImports...) {
			checkImport(t, name, floor, imported, true)
		}
	}
}

func checkImport(t *testing.T, name string, floor int, imported string, test bool) {
	t.Helper()
	if imported, ours := strings.CutPrefix(imported, module+"/"); ours {
		below, ok := layerOf(imported)
		switch {
		case !ok: // reported for itself
		case !test && path.Base(imported) == "labtest":
			t.Errorf("%s imports %s, which is for tests: it needs a testing.TB and runs other programs", name, imported)
		case top(name) == top(imported): // a package and its parts
		case test && top(imported) == "internal/lab": // the ground that tests stand on
		case below >= floor:
			t.Errorf("%s imports %s, which is not below it: %s: %s", name, imported, name, layers[floor].why)
		}
		return
	}
	if floor == 0 && !test && strings.Contains(strings.Split(imported, "/")[0], ".") {
		t.Errorf("%s imports %s: the nouns use the standard library only", name, imported)
	}
	for _, g := range gates {
		inside := imported == g.library || strings.HasPrefix(imported, g.library+"/")
		if inside && !test && !slices.Contains(g.only, top(name)) {
			t.Errorf("%s imports %s; only %s may: %s", name, imported, strings.Join(g.only, ", "), g.why)
		}
	}
}

// top is the package that a layer names: internal/lab of internal/lab/demo.
func top(name string) string {
	part := strings.SplitN(name, "/", 3)
	return strings.Join(part[:min(2, len(part))], "/")
}

func layerOf(name string) (int, bool) {
	i := slices.IndexFunc(layers, func(l struct {
		packages []string
		why      string
	}) bool {
		return slices.Contains(l.packages, top(name))
	})
	return i, i >= 0
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal("go list: ", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages found: is this test still at the module's root?", len(all))
	}
	return all
}
