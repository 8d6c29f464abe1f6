package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil/types"
)

// A world stands for the daemon behind a frontend: every image exists, unless its name says "missing", and has the same
// configuration, unless the case says another.
type world struct {
	testCase
	mu       sync.Mutex
	warnings []warning
}

// A reference stands for a result that nobody computes.
type reference struct {
	world      *world
	definition *pb.Definition
}

var errNothing = errors.New("there is no daemon here")

func (r *reference) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.definition)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

func (r *reference) Evaluate(context.Context) error { return nil }

func (r *reference) ReadFile(_ context.Context, q client.ReadRequest) ([]byte, error) {
	switch {
	case q.Filename == "Dockerfile":
		return []byte(r.world.Dockerfile), nil
	case q.Filename == ".dockerignore" && r.world.Ignore != "":
		return []byte(r.world.Ignore), nil
	}
	return nil, fmt.Errorf("no such file: %s", q.Filename)
}

func (r *reference) StatFile(ctx context.Context, q client.StatRequest) (*types.Stat, error) {
	data, err := r.ReadFile(ctx, client.ReadRequest{Filename: q.Path})
	if err != nil {
		return nil, err
	}
	return &types.Stat{Path: q.Path, Size: int64(len(data))}, nil
}

func (r *reference) ReadDir(context.Context, client.ReadDirRequest) ([]*types.Stat, error) {
	return nil, errNothing
}

func (w *world) ResolveSourceMetadata(context.Context, *pb.SourceOp, sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return nil, errNothing
}

func (w *world) Solve(_ context.Context, req client.SolveRequest) (*client.Result, error) {
	res := client.NewResult()
	res.SetRef(&reference{w, req.Definition})
	return res, nil
}

func (w *world) ResolveImageConfig(_ context.Context, name string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if strings.Contains(name, "missing") {
		return "", "", nil, errors.New("pull access denied for " + name)
	}
	p := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		p = *opt.ImageOpt.Platform
	}
	id := digest.FromString(name)
	if config, ok := w.Images[name]; ok {
		return name, id, []byte(config), nil
	}
	config := fmt.Sprintf(`{"architecture":%q,"os":%q,"config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["sh"]},`+
		`"created":"2024-01-01T00:00:00Z","rootfs":{"type":"layers","diff_ids":[%q]},`+
		`"history":[{"created":"2024-01-01T00:00:00Z","created_by":"base"}]}`, p.Architecture, p.OS, id)
	return name, id, []byte(config), nil
}

func (w *world) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts:      w.Opts,
		SessionID: "sess",
		Workers: []client.WorkerInfo{{Platforms: []ocispecs.Platform{
			{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "386"},
		}}},
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Caps:    gateway.Caps.CapSet(gateway.Caps.All()),
	}
}

func (w *world) Inputs(context.Context) (map[string]llb.State, error) {
	return map[string]llb.State{}, nil
}

func (w *world) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errNothing
}

func (w *world) Warn(_ context.Context, _ digest.Digest, msg string, o client.WarnOpts) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, newWarning(msg, o))
	return nil
}
