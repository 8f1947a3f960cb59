// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

const nginxConf = `
pid %[1]s/pid;
error_log stderr;
worker_processes 1;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	gzip on; gzip_min_length 1; gzip_types *;
	default_type text/plain;
	ssl_certificate %[2]s/cert.pem; ssl_certificate_key %[2]s/key.pem;
	map $request_uri $said { default "$request_method $http_host $server_protocol $http_user_agent $http_connection $http_x_probe$http_accept_encoding"; }
	server {
		listen 127.0.0.1:%[4]d; listen 127.0.0.1:%[5]d ssl; listen 127.0.0.1:%[6]d http2; listen 127.0.0.1:%[7]d ssl http2;
		location / { add_header X-Said well; return 200 $said; }
		location /ill { return 503; }
		location /moved { return 301 /; }
		location /sni { return 200 "<$ssl_server_name>"; }
	}
	server {
		listen 127.0.0.1:%[8]d ssl;
		ssl_certificate %[3]s/cert.pem; ssl_certificate_key %[3]s/key.pem;
		ssl_client_certificate %[2]s/cert.pem; ssl_verify_client on; ssl_verify_depth 1;
		return 200;
	}
}
`

func TestNginx(t *testing.T) {
	t.Parallel()
	authority := certified(t, nil, soonDue())
	good := certified(t, authority, soonDue(), "www.example.org")
	expired := certified(t, authority, time.Now().Add(-36*time.Hour), "www.example.org")
	dir := t.TempDir()
	var es [5]Endpoint
	for i := range es {
		es[i] = nobody(t)
	}
	plain, secure, h2c, h2, old := es[0], es[1], es[2], es[3], es[4]
	conf := fmt.Sprintf(nginxConf, dir, filepath.Dir(good.certFile), filepath.Dir(expired.certFile), plain.Port, secure.Port, h2c.Port, h2.Port, old.Port)
	if err := os.WriteFile(dir+"/conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := program(t, exec.Command("nginx", "-c", dir+"/conf", "-g", "daemon off; master_process off;"), listens(plain))

	vip := fmt.Sprintf("192.0.2.80:%d", plain.Port)
	said := "GET " + vip + " HTTP/1.1 shunt close "
	sum := sha256.Sum256([]byte(said))
	get := func(h HTTPCheck) Check { return Check{Kind: HTTP, HTTP: h} }
	trust := TLSCheck{ServerName: "www.example.org", Verify: true, CAFile: authority.certFile}
	with := func(change func(*TLSCheck)) TLSCheck { t := trust; change(&t); return t }
	verdicts{
		{"well", get(HTTPCheck{}), plain, ""},
		{"text", get(HTTPCheck{Expect: said}), plain, ""},
		{"pattern", get(HTTPCheck{Pattern: "^GET .* $"}), plain, ""},
		{"digest", get(HTTPCheck{Digest: "sha256:" + hex.EncodeToString(sum[:])}), plain, ""},
		{"header", get(HTTPCheck{Answer: []Header{{"x-said", "well"}, {"Server", ""}}}), plain, ""},
		{"status", get(HTTPCheck{Path: "/ill", Status: []StatusRange{{503, 503}}}), plain, ""},
		{"redirect", get(HTTPCheck{Path: "/moved"}), plain, ""},
		{"what is sent", get(HTTPCheck{Method: "POST", Path: "/a?b=c", Host: "shop.example", Body: "body", Headers: []Header{{"X-Probe", "yes"}, {"User-Agent", "me"}},
			Expect: "POST shop.example HTTP/1.1 me close yes"}), plain, ""},
		{"head", get(HTTPCheck{Method: "HEAD"}), plain, ""},
		{"ill", get(HTTPCheck{Path: "/ill"}), plain, "status 503, expected 200-399"},
		{"not followed", get(HTTPCheck{Path: "/moved", Status: []StatusRange{{200, 204}, {206, 206}}}), plain, "status 301, expected 200-204, 206"},
		{"other text", get(HTTPCheck{Expect: "nothing"}), plain, `the body does not contain "nothing": "GET `},
		{"other digest", get(HTTPCheck{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e"}), plain, "another digest"},
		{"other header", get(HTTPCheck{Answer: []Header{{"X-Said", "ill"}}}), plain, `header X-Said is "well", expected "ill"`},
		{"no header", get(HTTPCheck{Answer: []Header{{"X-Other", ""}}}), plain, "no header X-Other"},
		{"TLS to plain", Check{Kind: HTTPS}, plain, "no TLS"},
		{"plain to TLS", get(HTTPCheck{}), secure, "status 400"},

		{"unverified", Check{Kind: HTTPS, HTTP: HTTPCheck{Expect: fmt.Sprintf("192.0.2.80:%d", secure.Port)}}, secure, ""},
		{"no SNI", Check{Kind: HTTPS, HTTP: HTTPCheck{Path: "/sni", Host: "www.example.org", Expect: "<>"}}, secure, ""},
		{"verified", Check{Kind: HTTPS, TLS: trust, HTTP: HTTPCheck{Path: "/sni", Expect: "<www.example.org>"}}, secure, ""},
		{"of a name", Check{Kind: HTTPS, TLS: trust, HTTP: HTTPCheck{Expect: fmt.Sprintf("GET www.example.org:%d", secure.Port)}}, secure, ""},
		{"long valid", Check{Kind: HTTPS, TLS: TLSCheck{ValidFor: 80 * 24 * time.Hour}}, secure, ""},
		{"not long valid", Check{Kind: HTTPS, TLS: TLSCheck{ValidFor: 100 * 24 * time.Hour}}, secure, "certificate expires " + day(soonDue()) + ", in 89 days"},
		{"unknown authority", Check{Kind: HTTPS, TLS: with(func(t *TLSCheck) { t.CAFile = expired.certFile })}, secure, `unknown authority: "CN=shunt test"`},
		{"other name", Check{Kind: HTTPS, TLS: with(func(t *TLSCheck) { t.ServerName = "shop.example" })}, secure, `certificate is for "www.example.org", not for shop.example`},
		{"expired", Check{Kind: HTTPS}, old, "certificate expired " + day(expired.cert.NotAfter)},
		{"expired", Check{Kind: TLS}, old, "certificate expired " + day(expired.cert.NotAfter)},
		{"handshake", Check{Kind: TLS, TLS: trust}, secure, ""},
		{"protocol", Check{Kind: TLS, TLS: TLSCheck{ALPN: []string{"x", "h2"}}}, h2, ""},
		{"no protocol", Check{Kind: TLS, TLS: TLSCheck{ALPN: []string{"xmpp"}}}, h2, "TLS alert: no application protocol"},

		{"plain", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true, Expect: "HTTP/2.0"}}, h2c, ""},
		{"verified", Check{Kind: HTTP2, TLS: trust, HTTP: HTTPCheck{Expect: fmt.Sprintf("GET www.example.org:%d HTTP/2.0", h2.Port)}}, h2, ""},
		{"ill", Check{Kind: HTTP2, HTTP: HTTPCheck{Path: "/ill"}}, h2, "status 503"},
		{"without", Check{Kind: HTTP2}, secure, "TLS alert: no application protocol"},
		{"HTTP/1.1 only", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, plain, "no HTTP/2: "},
	}.run(t)

	if err := nginx.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	verdicts{
		{"stopped", Check{Kind: HTTP, Timeout: quick}, plain, "no answer within 200ms"},
		{"stopped", Check{Kind: HTTPS, Timeout: quick}, secure, "no answer within 200ms"},
		{"stopped, but the kernel takes connections", Check{Kind: TCP}, plain, ""},
	}.run(t)
}

func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Fatal("Debian's postgresql is not installed: make peers")
	}
	bin, data := bins[len(bins)-1], directory(t)+"/data"
	initdb := asNobody(t, exec.Command(bin+"/initdb", "-D", data, "--no-sync", "--auth=trust", "-U", "owner", "--locale=C", "-E", "SQL_ASCII"))
	initdb.Dir = "/"
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	rules := "host all secret all scram-sha-256\nhost all owner all trust\nhost all shunt all trust\n"
	if err := os.WriteFile(data+"/pg_hba.conf", []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	e := nobody(t)
	server := asNobody(t, exec.Command(bin+"/postgres", "-D", data, "-k", "", "-h", "127.0.0.1", "-p", fmt.Sprint(e.Port),
		"-c", "max_connections=4", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0", "-F"))
	server.Dir = "/"
	p := NewProber()
	pg := Check{Kind: PostgreSQL, Timeout: 10 * time.Second}
	process := program(t, server, func() error { return p.Probe(context.Background(), pg, e) })
	as := func(user, database string) Check {
		return Check{Kind: PostgreSQL, SQL: SQLCheck{User: user, Database: database}}
	}
	verdicts{
		{"an unknown user", pg, e, ""},
		{"without password", as("owner", "postgres"), e, ""},
		{"with password", as("secret", ""), e, ""},
		{"no rule", as("somebody", ""), e, ""},
		{"no database", as("owner", "shop"), e, `database "shop" does not exist`},
		{"another protocol", Check{Kind: Redis}, e, "connection closed without an answer"},
	}.run(t)

	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 4 {
		c := session(t, e)
		held = append(held, c)
	}
	verdicts{{"full", as("owner", "postgres"), e, "too many clients already"}}.run(t)
	held[0].Close()
	if err := process.Signal(syscall.SIGTERM); err != nil { // waits for its sessions
		t.Fatal(err)
	}
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := p.Probe(context.Background(), pg, e)
		if err != nil && strings.Contains(err.Error(), "the database system is shutting down") {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("shutting down: %v", err)
		}
	}
}

// session begins one that is held, once those of before are gone.
func session(t *testing.T, e Endpoint) net.Conn {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		c, err := dial(context.Background(), "tcp", e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(startup(SQLCheck{User: "owner", Database: "postgres"})); err != nil {
			t.Fatal(err)
		}
		kind := byte(0)
		for kind != 'Z' && kind != 'E' && err == nil {
			kind, _, err = readPg(c)
		}
		if kind == 'Z' {
			return c
		}
		c.Close()
	}
	t.Fatal("no session begins")
	return nil
}

func TestRedis(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password := func(text string) string {
		file, err := os.CreateTemp(dir, "password")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := io.WriteString(file, text); err != nil {
			t.Fatal(err)
		}
		return file.Name()
	}
	right, wrong := password("a b\"c\n"), password("other")
	// redis-check-rdb is the server by another name, in a package that starts none.
	redis := func(e Endpoint, args ...string) {
		cmd := exec.Command("redis-check-rdb", append([]string{"--port", fmt.Sprint(e.Port), "--bind", "127.0.0.1", "--save", "", "--dir", dir}, args...)...)
		cmd.Args[0] = "redis-server"
		program(t, cmd, listens(e))
	}
	open, closed, replica := nobody(t), nobody(t), nobody(t)
	redis(open)
	redis(closed, "--requirepass", `a b"c`)
	redis(replica, "--replicaof", "127.0.0.1", fmt.Sprint(open.Port))
	check := func(file, role string) Check {
		return Check{Kind: Redis, Redis: RedisCheck{PasswordFile: file, Role: role}}
	}
	verdicts{
		{"well", check("", ""), open, ""},
		{"password", check(right, "master"), closed, ""},
		{"master", check("", "master"), open, ""},
		{"replica", check("", "slave"), replica, ""},
		{"no password", check("", ""), closed, "NOAUTH"},
		{"wrong password", check(wrong, ""), closed, "WRONGPASS"},
		{"not a replica", check("", "slave"), open, `role "master", expected slave`},
		{"not a master", check("", "master"), replica, `role "slave", expected master`},
	}.run(t)
}

func TestDnsmasq(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	e := nobody(t)
	program(t, exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=nobody", "--pid-file=",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+fmt.Sprint(e.Port), "--local=/example/",
		"--host-record=www.example,192.0.2.1,2001:db8::1", "--txt-record=txt.example,a text", "--mx-host=example,mail.example,10"), listens(e))
	var vs verdicts
	for _, tcp := range []bool{false, true} {
		ask := func(d DNSCheck) Check { d.TCP = tcp; return Check{Kind: DNS, DNS: d} }
		vs = append(vs, verdicts{
			{"well", ask(DNSCheck{Name: "www.example"}), e, ""},
			{"address", ask(DNSCheck{Name: "www.example.", Answer: []string{"192.0.2.7", "192.0.2.1"}}), e, ""},
			{"IPv6", ask(DNSCheck{Name: "www.example", Type: "aaaa", Answer: []string{"2001:DB8::1"}}), e, ""},
			{"text", ask(DNSCheck{Name: "txt.example", Type: "TXT", Answer: []string{"a text"}}), e, ""},
			{"mail", ask(DNSCheck{Name: "example", Type: "MX", Answer: []string{"10 mail.example"}}), e, ""},
			{"not there, as it has to be", ask(DNSCheck{Name: "none.example", RCode: []string{"NXDOMAIN"}}), e, ""},
			{"not there", ask(DNSCheck{Name: "none.example"}), e, "DNS: NXDOMAIN, expected NOERROR"},
			{"other address", ask(DNSCheck{Name: "www.example", Answer: []string{"192.0.2.7"}}), e, `DNS: "192.0.2.1", expected "192.0.2.7"`},
			{"nothing of the type", ask(DNSCheck{Name: "www.example", Type: "MX", Answer: []string{"10 x"}}), e, "DNS: no records"},
			{"refused", ask(DNSCheck{}), e, "DNS: REFUSED, expected NOERROR"},
		}...)
	}
	vs.run(t)
}

func TestAiosmtpd(t *testing.T) {
	t.Parallel()
	authority := certified(t, nil, soonDue())
	good := certified(t, authority, soonDue(), "mail.example.org")
	plain, start := nobody(t), nobody(t)
	at := func(e Endpoint) string { return fmt.Sprintf("127.0.0.1:%d", e.Port) }
	program(t, exec.Command("aiosmtpd", "-n", "-l", at(plain)), listens(plain))
	program(t, exec.Command("aiosmtpd", "-n", "-l", at(start), "--tlscert", good.certFile, "--tlskey", good.keyFile), listens(start))
	secure := func(t TLSCheck) Check { return Check{Kind: SMTP, SMTP: SMTPCheck{StartTLS: true}, TLS: t} }
	verdicts{
		{"well", Check{Kind: SMTP}, plain, ""},
		{"a name", Check{Kind: SMTP, SMTP: SMTPCheck{Hello: "director.example.org"}}, plain, ""},
		{"STARTTLS", secure(TLSCheck{}), start, ""},
		{"verified", secure(TLSCheck{Verify: true, CAFile: authority.certFile, ServerName: "mail.example.org"}), start, ""},
		{"no STARTTLS", secure(TLSCheck{}), plain, "STARTTLS is not offered"},
		{"other name", secure(TLSCheck{Verify: true, CAFile: authority.certFile, ServerName: "mx.example.org"}), start, `certificate is for "mail.example.org"`},
		{"soon expired", secure(TLSCheck{ValidFor: 1000 * time.Hour * 24}), start, "certificate expires"},
		{"banner", Check{Kind: TCP, Talk: TalkCheck{Pattern: `^220 .*SMTP`}}, plain, ""},
	}.run(t)
}

// TestMariaDB is in a namespace, because MariaDB does not count the errors of clients on
// loopback. All of a probe is in one goroutine there.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	labtest.InNamespace(t)
	labtest.IP(t, "address add 192.0.2.7/32 dev lo")
	dir := directory(t)
	// It counts errors of hosts only whose names it finds.
	hosts := dir + "/hosts"
	if err := os.WriteFile(hosts, []byte("192.0.2.7 director.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := func(more ...string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts,
			"mariadbd", "--no-defaults", "--user=nobody", "--datadir=" + dir + "/data", "--lc-messages-dir=/usr/share/mysql",
			"--default-storage-engine=Aria", "--skip-innodb"}, more...)...)
	}
	if err := os.Mkdir(dir+"/data", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/data", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	tables := "create database mysql;\nuse mysql;\nset @auth_root_socket=NULL;\n"
	for _, file := range []string{"mysql_system_tables.sql", "mysql_system_tables_data.sql"} {
		text, err := os.ReadFile("/usr/share/mysql/" + file)
		if err != nil {
			t.Fatal(err)
		}
		tables += string(text)
	}
	tables += "flush privileges;\ncreate user free@'%';\n"
	bootstrap := args("--bootstrap")
	bootstrap.Stdin = strings.NewReader(tables)
	if out, err := bootstrap.CombinedOutput(); err != nil {
		t.Fatalf("mariadbd --bootstrap: %v: %s", err, out)
	}
	e := nobody(t)
	e.RIP = netip.MustParseAddr("192.0.2.7")
	program(t, args("--bind-address=192.0.2.7", "--port="+fmt.Sprint(e.Port), "--socket="+dir+"/socket", "--pid-file="+dir+"/pid",
		"--max-connect-errors=3"), listens(e))
	for range 20 {
		verdicts{{"refused login", Check{Kind: MySQL}, e, ""}}.run(t)
	}
	verdicts{
		{"login", Check{Kind: MySQL, SQL: SQLCheck{User: "free"}}, e, ""},
		{"no database", Check{Kind: MySQL, SQL: SQLCheck{User: "free", Database: "shop"}}, e, "error 1044"},
	}.run(t)
	for range 8 { // who does not log in is counted
		c, err := dial(context.Background(), "tcp", e)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = readMySQL(c)
		c.Close()
	}
	p := NewProber()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := p.Probe(context.Background(), Check{Kind: MySQL, Timeout: 10 * time.Second}, e)
		if err != nil && strings.Contains(err.Error(), "error 1129") {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("blocked: %v", err)
		}
	}
}
