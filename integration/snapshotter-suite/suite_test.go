// Runs containerd's own snapshotter suite against a snapshotter process of ours, over its socket. Decides only how the
// process is started and ended; what must hold is containerd's to say.
package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The snapshotter under test: a program that takes --root and --socket.
const programVariable = "SHIPWAY_SNAPSHOTTER"

// TestSuite runs the whole suite, a process per test.
//
// The suite is given overlayfs's name: under it, it leaves out the rename of a lower directory, which no overlay
// without redirect_dir can do.
func TestSuite(t *testing.T) {
	program := os.Getenv(programVariable)
	if program == "" {
		t.Fatalf("%s must name the snapshotter's program", programVariable)
	}
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		return start(ctx, program, root)
	})
}

func start(ctx context.Context, program, root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(root, "sock")
	cmd := exec.Command(program, "--root", filepath.Join(root, "store"), "--socket", socket)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting %s: %w", program, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := listening(ctx, socket, exited); err != nil {
		_ = cmd.Process.Kill()
		return nil, nil, fmt.Errorf("waiting for %s: %w", program, err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, nil, err
	}
	stop := func() error {
		closed := conn.Close()
		signalled := cmd.Process.Signal(syscall.SIGTERM)
		return errors.Join(closed, signalled, <-exited)
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "shipway"), stop, nil
}

// listening returns once something accepts connections on the socket.
func listening(ctx context.Context, socket string, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-exited:
			return errors.Join(errors.New("it ended"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
