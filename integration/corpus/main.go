// Command oracle says what BuildKit's own Dockerfile frontend makes of Dockerfiles: op digests in their order, names,
// capabilities, source lines, image configurations, warnings, errors and answers to subrequests. It resolves images by a
// rule instead of a registry and never solves anything.
//
//	oracle -corpus DIR          compares DIR/*/golden.json with what upstream says today
//	oracle -corpus DIR -bless   writes them
//	oracle                      reads a JSON list of cases, writes the list of what upstream says
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
)

// A testCase is a Dockerfile and what surrounds it.
type testCase struct {
	Dockerfile string                     `json:"dockerfile"`
	Ignore     string                     `json:"dockerignore"`
	Opts       map[string]string          `json:"opts"`
	Images     map[string]json.RawMessage `json:"images"`
}

func main() {
	corpus := flag.String("corpus", "", "directory of cases")
	bless := flag.Bool("bless", false, "write the golden files instead of comparing them")
	flag.Parse()
	var err error
	if *corpus == "" {
		err = stream()
	} else {
		err = files(*corpus, *bless)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

// stream answers the cases on standard input.
func stream() error {
	var cases []testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		return err
	}
	answers := make([]any, 0, len(cases))
	for _, c := range cases {
		answers = append(answers, c.golden())
	}
	text, err := encode(answers)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// files compares or writes the golden files below dir.
func files(dir string, bless bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var stale []string
	for _, e := range entries {
		current, err := file(filepath.Join(dir, e.Name()), bless)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		if !current {
			stale = append(stale, e.Name())
		}
	}
	fmt.Fprintf(os.Stderr, "oracle: %d cases, %d golden files differ\n", len(entries), len(stale))
	if len(stale) == 0 || bless {
		return nil
	}
	return fmt.Errorf("upstream says something else than golden.json (-bless writes it): %v", stale)
}

// file handles one case; true where its golden file says what upstream says.
func file(dir string, bless bool) (bool, error) {
	var c testCase
	text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		return false, err
	}
	c.Dockerfile = string(text)
	ignore, err := os.ReadFile(filepath.Join(dir, "dockerignore"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	c.Ignore = string(ignore)
	for name, into := range map[string]any{"opts.json": &c.Opts, "images.json": &c.Images} {
		if err := optionalJSON(filepath.Join(dir, name), into); err != nil {
			return false, err
		}
	}
	want, err := encode(c.golden())
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, "golden.json")
	had, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if sameJSON(had, want) {
		return true, nil
	}
	if bless {
		return false, os.WriteFile(path, want, 0o644)
	}
	return false, nil
}

func optionalJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(v)
	return out.Bytes(), err
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
