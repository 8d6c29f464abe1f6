// Package tig stands in for nerdctl's unpublished test-support module: the nerdctl command names this one interface
// of it and nothing else. It has no behaviour of its own.
package tig

// T is what nerdctl's code expects of a test in progress.
type T interface {
	Helper()
	TempDir() string
	Skip(args ...any)
	Log(args ...any)
	Name() string
	FailNow()
	Fail()
}
