package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

type built struct {
	Platforms []platform `json:"platforms"`
	Warnings  []warning  `json:"warnings"`
}

type failed struct {
	Error    string    `json:"error"`
	Lines    [][]int32 `json:"error_lines"`
	Warnings []warning `json:"warnings"`
}

type answered struct {
	Answer map[string]any `json:"answer"`
}

type platform struct {
	Vertices []vertex `json:"vertices"`
	Config   string   `json:"config"`
	Base     string   `json:"base"`
}

type vertex struct {
	Digest  string   `json:"digest"`
	Name    string   `json:"name"`
	Group   string   `json:"group"`
	NoCache bool     `json:"no_cache"`
	Caps    []string `json:"caps"`
	Lines   []int32  `json:"lines"`
}

type warning struct {
	Text   string  `json:"text"`
	URL    string  `json:"url"`
	Detail string  `json:"detail"`
	Lines  []int32 `json:"lines"`
}

// golden is what upstream makes of the case.
func (c testCase) golden() (out any) {
	// With a command line, a frontend that was named by `# syntax=` doesn't look for another one.
	opts := map[string]string{"cmdline": ""}
	maps.Copy(opts, c.Opts)
	c.Opts = opts
	world := &world{testCase: c, warnings: []warning{}}
	defer func() {
		// Upstream's own crash on an input says nothing about ours.
		if p := recover(); p != nil {
			out = failed{Error: fmt.Sprint("panic: ", p), Lines: [][]int32{}, Warnings: world.warnings}
		}
	}()
	res, err := builder.Build(context.Background(), world)
	sort.Slice(world.warnings, func(i, j int) bool { return world.warnings[i].key() < world.warnings[j].key() })
	if c.Opts["requestid"] != "" {
		// The answer says what there is to say.
		world.warnings = []warning{}
	}
	if err != nil {
		return failed{Error: err.Error(), Lines: errorLines(err), Warnings: world.warnings}
	}
	if _, ok := res.Metadata["result.json"]; ok {
		return answered{answer(res.Metadata)}
	}
	platforms, err := platforms(res)
	if err != nil {
		return failed{Error: "oracle: " + err.Error(), Lines: [][]int32{}, Warnings: world.warnings}
	}
	return built{platforms, world.warnings}
}

func (w warning) key() string {
	return fmt.Sprint(w.Text, "\x00", w.URL, "\x00", w.Detail, "\x00", w.Lines)
}

func errorLines(err error) [][]int32 {
	all := [][]int32{}
	var located *parser.LocationError
	if !errors.As(err, &located) {
		return all
	}
	for _, ranges := range located.Locations {
		lines := []int32{}
		for _, r := range ranges {
			lines = append(lines, int32(r.Start.Line))
		}
		// Upstream notes some places twice.
		if len(all) == 0 || !slices.Equal(all[len(all)-1], lines) {
			all = append(all, lines)
		}
	}
	return all
}

// onlyWhatItSays takes out of an answer what is no part of what it says: the LLB from which the Dockerfile came, the random
// names of groups, places of ops that have none.
func onlyWhatItSays(body any) {
	object, _ := body.(map[string]any)
	sources, _ := object["sources"].([]any)
	if source, ok := object["source"].(map[string]any); ok {
		sources, _ = source["infos"].([]any)
		places, _ := source["locations"].(map[string]any)
		maps.DeleteFunc(places, func(_ string, place any) bool { return len(place.(map[string]any)) == 0 })
	}
	for _, source := range sources {
		if source, ok := source.(map[string]any); ok {
			delete(source, "definition")
		}
	}
	known, _ := object["metadata"].(map[string]any)
	for _, op := range known {
		if group, ok := op.(map[string]any)["progress_group"].(map[string]any); ok {
			delete(group, "id")
		}
	}
}

// answer is a subrequest's.
func answer(meta map[string][]byte) map[string]any {
	all := map[string]any{}
	for key, value := range meta {
		if key != "result.json" {
			all[key] = string(value)
			continue
		}
		var body any
		if json.Unmarshal(value, &body) != nil {
			all[key] = string(value)
			continue
		}
		onlyWhatItSays(body)
		all[key] = body
	}
	return all
}

func platforms(res *client.Result) ([]platform, error) {
	var known struct{ Platforms []struct{ ID string } }
	if err := json.Unmarshal(res.Metadata["refs.platforms"], &known); err != nil {
		return nil, err
	}
	all := []platform{}
	for _, p := range known.Platforms {
		suffix, found := "/"+p.ID, res.Refs[p.ID]
		if found == nil {
			suffix, found = "", res.Ref
		}
		one := platform{
			Vertices: []vertex{},
			Config:   string(res.Metadata["containerimage.config"+suffix]),
			Base:     string(res.Metadata["containerimage.base.config"+suffix]),
		}
		if found != nil {
			one.Vertices = vertices(found.(*reference).definition)
		}
		all = append(all, one)
	}
	return all, nil
}

// vertices lists all but the last op, which only names the result.
func vertices(def *pb.Definition) []vertex {
	all := []vertex{}
	for i, op := range def.Def {
		if i == len(def.Def)-1 {
			break
		}
		id := digest.FromBytes(op).String()
		v := vertex{Digest: id, Caps: []string{}, Lines: []int32{}}
		if meta := def.Metadata[id]; meta != nil {
			v.Name, v.NoCache = meta.Description["llb.customname"], meta.IgnoreCache
			if meta.ProgressGroup != nil {
				v.Group = meta.ProgressGroup.Name
			}
			for c := range meta.Caps {
				v.Caps = append(v.Caps, c)
			}
			sort.Strings(v.Caps)
		}
		if def.Source != nil && def.Source.Locations[id] != nil {
			for _, l := range def.Source.Locations[id].Locations {
				for _, r := range l.Ranges {
					v.Lines = append(v.Lines, r.Start.Line)
				}
			}
		}
		all = append(all, v)
	}
	return all
}

// newWarning is the frontend's own warning in the form of the golden files.
func newWarning(msg string, o client.WarnOpts) warning {
	w := warning{Text: msg, URL: o.URL, Lines: []int32{}}
	detail := make([]string, 0, len(o.Detail))
	for _, d := range o.Detail {
		detail = append(detail, string(d))
	}
	w.Detail = strings.Join(detail, "\n")
	for _, r := range o.Range {
		w.Lines = append(w.Lines, r.Start.Line)
	}
	return w
}
