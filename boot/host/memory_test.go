package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const byUUID = `default: ignore
hosts:
  - {name: board, uuid: 58b41815-581e-c62a-d4e2-f44d30606469, image: one}
  - {name: card, mac: "00:20:38:03:37:6c", image: two}
`

// A machine that is listed by its UUID alone tells it by DHCP, and then only its MAC is seen.
func TestMemory(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte(byUUID))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	file := filepath.Join(dir, "uuids")
	live := Fixed(p)
	forget, err := live.Remember(dir)
	if err != nil {
		t.Fatal(err)
	}
	board, card := mac("02:00:00:00:00:01"), mac("00:20:38:03:37:6c")
	const uuid, other = "58b41815-581e-c62a-d4e2-f44d30606469", "58b41815-581e-c62a-d4e2-f44d30606460"
	if d := live.Decide(Machine{MAC: board}); !d.Ignore {
		t.Errorf("before it told its UUID: %+v", d)
	}
	if d := live.Decide(Machine{MAC: board, UUID: uuid, Trial: true}); d.Name != "board" {
		t.Errorf("tried out with its UUID: %+v", d)
	}
	if d := live.Decide(Machine{MAC: board}); !d.Ignore {
		t.Errorf("after somebody tried it out: %+v", d)
	}
	for range 3 {
		if d := live.Decide(Machine{MAC: board, UUID: uuid}); d.Name != "board" {
			t.Errorf("with its UUID: %+v", d)
		}
	}
	if d := live.Decide(Machine{MAC: board}); d.Ignore || d.Name != "board" || d.Image != "one" {
		t.Errorf("after it told its UUID: %+v", d)
	}
	// Who is listed by MAC is that, whatever board it is in; what nobody lists is not kept.
	live.Decide(Machine{MAC: card, UUID: uuid})
	live.Decide(Machine{MAC: mac("02:00:00:00:00:02"), UUID: other})
	data, err := os.ReadFile(file)
	if want := "02:00:00:00:00:01 " + uuid + "\n"; err != nil || string(data) != want {
		t.Errorf("kept: %q, %v; want %q", data, err, want)
	}
	if err := forget(); err != nil {
		t.Error(err)
	}

	// The next server knows it, also when this one was killed while it wrote.
	if err := os.WriteFile(file, append(data, "02:00:00:00:00:03 58b4"...), 0o600); err != nil {
		t.Fatal(err)
	}
	next := Fixed(p)
	forget, err = next.Remember(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := next.Decide(Machine{MAC: board}); d.Name != "board" {
		t.Errorf("after a restart: %+v", d)
	}
	if d := next.Decide(Machine{MAC: mac("02:00:00:00:00:03")}); !d.Ignore {
		t.Errorf("half a line: %+v", d)
	}
	later := mac("02:00:00:00:00:04")
	next.Decide(Machine{MAC: later, UUID: uuid})
	if err := forget(); err != nil {
		t.Error(err)
	}
	third := Fixed(p)
	forget, err = third.Remember(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer forget()
	if d := third.Decide(Machine{MAC: later}); d.Name != "board" {
		t.Errorf("learned behind half a line: %+v", d)
	}
	// A policy that lists it no longer does not serve it.
	p, err = Parse("netroot.yaml", []byte(strings.Replace(byUUID, uuid, other, 1)))
	if err != nil {
		t.Fatal(err)
	}
	next.set(p)
	if d := next.Decide(Machine{MAC: board}); !d.Ignore {
		t.Errorf("not listed any more: %+v", d)
	}
}

// Addresses that somebody makes up fill the memory to its bound and no further.
func TestMemoryIsBounded(t *testing.T) {
	const text = `default: ignore
hosts:
  - {name: board, uuid: 58b41815-581e-c62a-d4e2-f44d30606469, image: one}
  - {name: another, uuid: 58b41815-581e-c62a-d4e2-f44d30606460, image: two}
`
	p, err := Parse("netroot.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	live := Fixed(p)
	forget, err := live.Remember(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody who knows a UUID makes up machines that have it.
	flood := func() {
		for i := range 2 * maxRemembered {
			live.Decide(Machine{MAC: []byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, UUID: "58b41815-581e-c62a-d4e2-f44d30606469"})
		}
	}
	flood()
	if n := len(live.memory.uuid); n != maxOfOne {
		t.Errorf("%d machines of one UUID are remembered, and the bound is %d", n, maxOfOne)
	}
	another := mac("02:00:00:00:ff:01")
	live.Decide(Machine{MAC: another, UUID: "58b41815-581e-c62a-d4e2-f44d30606460"})
	for range 6 {
		flood()
	}
	if st, err := os.Stat(filepath.Join(dir, memoryFile)); err != nil || st.Size() > maxMemoryFile+1000 || st.Size() != live.memory.size {
		t.Errorf("the file: %v, %v", st, err)
	}
	last := mac("02:00:00:00:ff:02") // learned after much was written
	live.Decide(Machine{MAC: last, UUID: "58b41815-581e-c62a-d4e2-f44d30606469"})
	if err := forget(); err != nil {
		t.Error(err)
	}
	next := Fixed(p)
	if forget, err = next.Remember(dir); err != nil {
		t.Fatal(err)
	}
	defer forget()
	if got := []string{next.Decide(Machine{MAC: another}).Name, next.Decide(Machine{MAC: last}).Name}; got[0] != "another" || got[1] != "board" {
		t.Errorf("the next server knows %q", got)
	}
	if n := len(next.memory.uuid); n != maxOfOne+1 {
		t.Errorf("the next server knows %d machines", n)
	}
	// A machine that got another board's UUID is that one then.
	next.Decide(Machine{MAC: another, UUID: "58b41815-581e-c62a-d4e2-f44d30606469"})
	if d := next.Decide(Machine{MAC: another}); d.Name != "board" || len(next.memory.uuid) != maxOfOne {
		t.Errorf("with another UUID: %+v, %d known", d, len(next.memory.uuid))
	}
}

func TestMemoryWithoutAFile(t *testing.T) {
	if _, err := Fixed(Default()).Remember(filepath.Join(t.TempDir(), "no", "state")); err == nil {
		t.Error("a folder that is not there was written to")
	}
}

// Who only looks reads what a server keeps, and changes nothing of it.
func TestRecall(t *testing.T) {
	p, err := Parse("netroot.yaml", []byte(byUUID))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	live := Fixed(p)
	if err := live.Recall(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a server that keeps nothing: %v", err)
	}
	const kept = "02:00:00:00:00:01 58b41815-581e-c62a-d4e2-f44d30606469\n02:00:00:00:00:02 58b4"
	file := filepath.Join(dir, "uuids")
	if err := os.WriteFile(file, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := live.Recall(dir); err != nil {
		t.Fatal(err)
	}
	if d := live.Decide(Machine{MAC: mac("02:00:00:00:00:01")}); d.Name != "board" {
		t.Errorf("what is kept: %+v", d)
	}
	live.Decide(Machine{MAC: mac("02:00:00:00:00:09"), UUID: "58b41815-581e-c62a-d4e2-f44d30606469"})
	if data, err := os.ReadFile(file); err != nil || string(data) != kept {
		t.Errorf("the file is now %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("a folder was made: %v", err)
	}
}
