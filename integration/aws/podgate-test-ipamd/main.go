// Command podgate-test-ipamd stands in for Amazon's IPAM daemon, so that the real aws-cni and egress-cni plugins run
// without AWS. It speaks the daemon's own protocol (package rpc of Amazon's module) and hands out addresses from
// prefixes in a file. It configures nothing: links, routes and rules are the plugins' work.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/aws/amazon-vpc-cni-k8s/rpc"
	"google.golang.org/grpc"
)

func main() {
	socket := flag.String("socket", "/var/run/aws-node/ipamd.sock", "where aws-cni asks")
	agent := flag.String("agent-socket", "", "also answer for the network policy agent here (aws-cni asks when networkPolicyMode is not empty)")
	file := flag.String("config", "", "what to hand out, see config.go")
	flag.Parse()
	log.SetFlags(0)

	if err := run(*socket, *agent, *file); err != nil {
		log.Fatalf("podgate-test-ipamd: %v", err)
	}
}

func run(socket, agent, file string) error {
	config, err := readConfig(file)
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()

	failed := make(chan error, 2)
	ipam := grpc.NewServer(grpc.UnaryInterceptor(logged))
	rpc.RegisterCNIBackendServer(ipam, &backend{config: config, pods: newPods(config)})
	if err := serve(ipam, socket, failed); err != nil {
		return err
	}
	defer ipam.Stop()
	if agent != "" {
		policy := grpc.NewServer(grpc.UnaryInterceptor(logged))
		rpc.RegisterNPBackendServer(policy, silentAgent{})
		if err := serve(policy, agent, failed); err != nil {
			return err
		}
		defer policy.Stop()
	}

	select {
	case <-stop.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// serve listens under another name first: once `path` exists, a connection to it is answered.
func serve(server *grpc.Server, path string, failed chan<- error) error {
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Rename(hidden, path); err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	go func() {
		if err := server.Serve(listener); err != nil {
			failed <- fmt.Errorf("serve %s: %w", path, err)
		}
	}()
	return nil
}

// logged writes one JSON line for each call to standard error: method, request, reply or error.
func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	reply, err := handler(ctx, request)
	line := map[string]any{"method": info.FullMethod, "request": request, "reply": reply}
	if err != nil {
		line["error"] = err.Error()
	}
	if text, marshalError := json.Marshal(line); marshalError == nil {
		log.Print(string(text))
	}
	return reply, err
}
