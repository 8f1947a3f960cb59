// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// mostGRPC is how many bytes a message and a set of headers may have.
const mostGRPC = 16 << 10

// grpc asks the health service, https://github.com/grpc/grpc/blob/master/doc/health-checking.md
func (p *Prober) grpc(ctx context.Context, c Check, e Endpoint) error {
	why := &cause{}
	var creds credentials.TransportCredentials
	usual := uint16(80)
	if c.GRPC.Plain {
		creds = insecure.NewCredentials()
	} else {
		config, err := p.tlsConfig(c.TLS, []string{"h2"})
		if err != nil {
			return err
		}
		creds, usual = handshaker{credentials.NewTLS(config), why}, 443
	}
	client, err := grpc.NewClient("passthrough:///"+hostOf("", e, 0),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			c, err := dial(ctx, "tcp", e)
			return c, why.first(err)
		}),
		grpc.WithTransportCredentials(creds), grpc.WithAuthority(hostOf(c.TLS.ServerName, e, usual)), grpc.WithUserAgent("shunt"),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithMaxHeaderListSize(mostGRPC), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostGRPC)))
	if err != nil {
		return notAsked(err)
	}
	defer client.Close()
	answer, err := grpc_health_v1.NewHealthClient(client).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: c.GRPC.Service})
	if err != nil {
		return judgeGRPC(c.GRPC, err, why.err())
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("gRPC: %v, expected SERVING", answer.Status)
	}
	return nil
}

func judgeGRPC(g GRPCCheck, err, why error) error {
	if why != nil {
		return why
	}
	switch s := status.Convert(err); s.Code() {
	case codes.NotFound:
		return fmt.Errorf("gRPC: no service %s", quote(g.Service))
	case codes.Unimplemented:
		return fmt.Errorf("gRPC: no health service: %s", quote(s.Message()))
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return fmt.Errorf("gRPC: %v: %s", s.Code(), quote(s.Message()))
	}
}

// cause keeps the first error of making a connection. The library makes a text of
// it, and tries again.
type cause struct {
	mu   sync.Mutex
	kept error
}

func (c *cause) first(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = err
	}
	return err
}

func (c *cause) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept
}

// handshaker are credentials that keep why a handshake failed.
type handshaker struct {
	credentials.TransportCredentials
	why *cause
}

func (h handshaker) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return c, info, h.why.first(err)
}

func (h handshaker) Clone() credentials.TransportCredentials {
	return handshaker{h.TransportCredentials.Clone(), h.why}
}
