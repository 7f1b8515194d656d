package vm

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	lab := openLab(t, Config{})
	ctx, c := context.WithTimeout(context.Background(), 300*time.Second)
	defer c()
	sp, _ := ParseSpec(os.Getenv("SPEC"))
	s, err := lab.Serve(ctx, ServerConfig{Program: "/tmp/vmk/netroot", Store: "/tmp/vmk/store", Policy: Policy(DefaultMAC.String(), "debian-12", "debian-12")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := lab.Boot(MachineConfig{Spec: sp})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WaitEvent(ctx, 0, func(e Event) bool { return e.Stage == "up" })
	t.Log(err)
	f, _ := os.Create("/tmp/vmk/record")
	for _, l := range m.Console() {
		fmt.Fprintf(f, "%.2f console %s\n", l.Time.Sub(m.PowerOn).Seconds(), l.Text)
	}
	for _, e := range s.Events() {
		fmt.Fprintf(f, "%.2f event %s\n", e.Time.Sub(m.PowerOn).Seconds(), e.Raw)
	}
	f.Close()
	t.Log("\n" + Assemble(m.PowerOn, DefaultMAC.String(), m.Console(), s.Events()).String())
}
