// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFile = "../../docs/shunt.schema.json"

func TestSchemaFileIsUpToDate(t *testing.T) {
	file, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, Schema()) {
		t.Error("docs/shunt.schema.json is not what 'shunt schema' prints: run 'go run ./cmd/shunt schema > docs/shunt.schema.json'")
	}
}

// compiled is the schema as an editor has it.
func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bySchema is what the schema says of a file.
func bySchema(t testing.TB, s *jsonschema.Schema, text string) error {
	t.Helper()
	ps := newProblems("x.yaml", []byte(text))
	root := parseYAML(ps, []byte(text))
	if root == nil {
		return ps.err()
	}
	return s.Validate(plainValue(t, root))
}

// plainValue is a node as JSON has it.
func plainValue(t testing.TB, n *node) any {
	t.Helper()
	switch n.kind {
	case mapKind:
		m := map[string]any{}
		for _, e := range n.entries {
			m[e.key.text] = plainValue(t, e.value)
		}
		return m
	case listKind:
		l := []any{}
		for _, item := range n.items {
			l = append(l, plainValue(t, item))
		}
		return l
	}
	switch n.scalar {
	case intType, floatType:
		v, err := strconv.ParseFloat(n.text, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	case boolType:
		return n.text == "true"
	case nullType:
		return nil
	}
	return n.text
}

func examples(t testing.TB) map[string]string {
	t.Helper()
	names, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(names) < 8 {
		t.Fatalf("%d examples found (%v)", len(names), err)
	}
	all := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = string(text)
	}
	return all
}

func TestExamples(t *testing.T) {
	s := compiled(t)
	for name, text := range examples(t) {
		c, err := Parse(name, []byte(text))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := c.Table(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := bySchema(t, s, text); err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
		if !strings.HasPrefix(text, "# yaml-language-server: $schema="+SchemaID+"\n") {
			t.Errorf("%s does not say where its schema is", name)
		}
	}
}

// schemaKeys are all keys that the schema has anywhere.
func schemaKeys(t *testing.T) map[string]bool {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if p, ok := v["properties"].(map[string]any); ok {
				for key := range p {
					keys[key] = true
				}
			}
			for _, below := range v {
				walk(below)
			}
		case []any:
			for _, below := range v {
				walk(below)
			}
		}
	}
	walk(doc)
	if len(keys) < 100 {
		t.Fatalf("only %d keys found", len(keys))
	}
	return keys
}

func TestEverythingHasEveryKey(t *testing.T) {
	text := examples(t)["everything.yaml"]
	for key := range schemaKeys(t) {
		if !regexp.MustCompile(`(?m)[{ ,]` + key + `:|^` + key + `:`).MatchString(text) {
			t.Errorf("examples/everything.yaml has no key %s", key)
		}
	}
}

func TestReferenceHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for key := range schemaKeys(t) {
		if !bytes.Contains(text, []byte("`"+key+"`")) {
			t.Errorf("docs/configuration.md says nothing of %s", key)
		}
	}
	for _, words := range []string{"scheduler", "kind", "stray", "fate", "mode", "failure", "target", "schedulerflag", "rcode", "record"} {
		for _, word := range vocabulary(words) {
			if !regexp.MustCompile(`\b` + word + `\b`).Match(text) {
				t.Errorf("docs/configuration.md says nothing of the %s %s", words, word)
			}
		}
	}
}

// minimal has one service with the given line in it.
func minimal(line string) string {
	return "director: {interfaces: [eth0]}\nservices:\n  - address: 172.16.16.172:80\n    servers: [172.16.16.177]\n    " + line + "\n"
}

func checked(line string) string { return minimal("checks: [{" + line + "}]") }

// TestSchemaAndParserAgree: what is well-formed to one is to the other. What only
// the whole file tells (parserOnly) is the parser's to say.
func TestSchemaAndParserAgree(t *testing.T) {
	s := compiled(t)
	for _, c := range []struct {
		text       string
		good       bool
		parserOnly bool
	}{
		{text: minimal("scheduler: rr"), good: true},
		{text: minimal("scheduler: rrr")},
		{text: minimal("schedular: rr")},
		{text: minimal("scheduler: [rr]")},
		{text: minimal("scheduler: ")},
		{text: minimal("persistence: 360"), good: true},
		{text: minimal("persistence: 6m"), good: true},
		{text: minimal("persistence: 6 minutes")},
		{text: minimal("persistence: 0")},
		{text: minimal("persistence: 1.5")},
		{text: minimal("persistence: [6m]")},
		{text: minimal("persistence: {timeout: 6m, mask: 24}"), good: true},
		{text: minimal("persistence: {timeout: 6m, mask: 255.255.255.0}"), good: true},
		{text: minimal("persistence: {timeout: 6m, mask: 200}")},
		{text: minimal("persistence: {mask: 64}"), parserOnly: true},
		{text: minimal("quorum: 1"), good: true},
		{text: minimal("quorum: {up: 1}"), good: true},
		{text: minimal("quorum: 0")},
		{text: minimal("quorum: one")},
		{text: minimal("quorum: 2"), parserOnly: true},
		{text: minimal("passive: true"), good: true},
		{text: minimal("passive: {window: 3s}"), good: true},
		{text: minimal("passive: 7")},
		{text: minimal("flap: false"), good: true},
		{text: minimal("flap: true")},
		{text: minimal("flap: {changes: 1}")},
		{text: minimal("agent: {secret_file: /k}"), good: true},
		{text: minimal("agent: {secret_file: k}")},
		{text: minimal("agent: {protocol: haproxy, port: 70000}")},
		{text: minimal("agent: {secret_file: /k, weight: 10-200}")},
		{text: minimal("alpha: yes")},
		{text: minimal("alpha: true"), good: true},
		{text: minimal("slow_start: 60s"), good: true},
		{text: minimal("slow_start: -1")},
		{text: minimal("slow_start: 2d"), parserOnly: true},
		{text: minimal("source_limit: 20"), good: true},
		{text: minimal(`source_limit: "20:40"`), good: true},
		{text: minimal("source_limit: 20/40")},
		{text: minimal("source_limit: 20000")},
		{text: minimal("deny: [192.0.2.0/24, 192.0.2.1]"), good: true},
		{text: minimal("deny: 192.0.2.0/24")},
		{text: minimal("deny: [192.0.2.1/24]"), parserOnly: true},
		{text: minimal("name: 7"), good: true},
		{text: minimal("name: a b")},
		{text: minimal("name: ''")},
		{text: minimal("name: {a: b}")},
		{text: minimal("mark: 7")},
		{text: minimal("protocol: TCP")},
		{text: minimal("one_packet: true"), parserOnly: true},
		{text: minimal("sorry_server: 172.16.16.180"), good: true},
		{text: minimal("sorry_server: sorry.example.com")},
		{text: minimal("policy: {stray: pass, conn_reuse_mode: 1}"), good: true},
		{text: minimal("policy: {conn_reuse_mode: 4}")},
		{text: minimal("check: {interval: 1s, jitter: 5%}"), good: true},
		{text: minimal("check: {interval: 1s, jitter: 0.05}")},
		{text: minimal("check: {rise: 0}")},
		{text: minimal("check: {path: /}")},
		{text: minimal("checks: []"), good: true},
		{text: minimal("checks: tcp")},
		{text: minimal("checks: [tcp, {type: icmp}]"), good: true},
		{text: minimal("checks: [nosuch]"), parserOnly: true},
		{text: minimal("servers2: []")},
		{text: checked("type: http, status: 200"), good: true},
		{text: checked(`type: http, status: "200-299,404"`), good: true},
		{text: checked("type: http, status: [200, 300-399]"), good: true},
		{text: checked("type: http, status: 600")},
		{text: checked("type: http, status: ok")},
		{text: checked("type: http, status: []")},
		{text: checked("type: http, headers: {X-Version: 1, A: ''}"), good: true},
		{text: checked("type: http, headers: [a]")},
		{text: checked("type: http, path: healthz")},
		{text: checked("type: http, contains: 200"), good: true},
		{text: checked("type: http, contains: true"), good: true},
		{text: checked("type: http, regex: '('"), parserOnly: true},
		{text: checked("type: http, query: a")},
		{text: checked("type: htpp")},
		{text: checked("path: /")},
		{text: checked("type: http, digest: md5:12")},
		{text: checked("type: tcp, send_hex: 'zz'")},
		{text: checked("type: tcp, send_hex: '0a 0b'"), good: true},
		{text: checked("type: dns, rcode: [NXDOMAIN], record: MX, query: example.com"), good: true},
		{text: checked("type: dns, rcode: NOERROR")},
		{text: checked("type: icmp, port: 7")},
		{text: checked("type: tcp, port: 0")},
		{text: checked("type: tcp, port: '80'")},
		{text: checked("type: redis, role: replica")},
		{text: checked("type: file, path: /x, max_age: 10"), good: true},
		{text: "services: []\n", good: true},
		{text: "x-mine: {a: b}\nservices: []\n", good: true},
		{text: "mine: {a: b}\nservices: []\n"},
		{text: "services: {}\n"},
		{text: "director: eth0\n"},
		{text: "director:\n"},
		{text: "[]\n"},
		{text: "text\n"},
		{text: "{}\n"},
		{text: ""},
		{text: "director: {interfaces: [eth0], mode: nativ}\n"},
		{text: "director: {interfaces: [eth0/1]}\n"},
		{text: "director: {vlans: {v100: eth0/100}}\n", good: true},
		{text: "director: {vlans: {v100: eth0.100}}\n"},
		{text: "director: {timeouts: {tcp: 900}}\n", good: true},
		{text: "director: {timeouts: {tcp: 900ms}}\n", parserOnly: true},
		{text: "director: {connections: -1}\n"},
		{text: "realserver: {vips: [172.16.16.172]}\n", good: true},
		{text: "realserver: {method: loopback}\n"},
		{text: "realserver: {vips: [172.16.16.172], method: redirect, ports: [80]}\n"},
		{text: "realserver: {vips: [172.16.16.172], method: redirect}\n", parserOnly: true},
		{text: "notify: [{log: warn}]\n", good: true},
		{text: "notify: [{log: warning}]\n"},
		{text: "notify: [{log: warn, url: 'http://x/'}]\n"},
		{text: "notify: [{on: [server]}]\n"},
		{text: "notify: [{url: ftp://x/}]\n"},
		{text: "services:\n  - {mark: 7, match: [tcp 172.16.16.172:21, udp 172.16.16.172]}\n", good: true},
		{text: "services:\n  - {mark: 7, match: [172.16.16.172:21]}\n"},
		{text: "services:\n  - {mark: 0, match: [tcp 172.16.16.172:21]}\n"},
		{text: "services:\n  - {address: 172.16.16.172}\n"},
		{text: "services:\n  - {address: '[2001:db8::172]:80', servers: ['2001:db8::1', {address: '2001:db8::2'}]}\n", good: true},
		{text: "services:\n  - {servers: [172.16.16.177]}\n"},
		{text: "services:\n  - {address: 172.16.16.172:80, servers: [{weight: 1}]}\n"},
		{text: "services:\n  - {address: 172.16.16.172:80, servers: [{address: 172.16.16.177, weight: -1}]}\n"},
	} {
		_, err := Parse("x.yaml", []byte(c.text))
		if (err == nil) != c.good {
			t.Errorf("%s\nthe parser says %v", c.text, err)
		}
		if err := bySchema(t, s, c.text); (err == nil) != (c.good || c.parserOnly) {
			t.Errorf("%s\nthe schema says %v", c.text, err)
		}
	}
}
