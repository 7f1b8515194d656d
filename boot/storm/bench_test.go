package storm

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/builder/need"
)

var update = flag.Bool("update", false, "write testdata/storm.svg and storm.txt")

// What a Debian 12 machine loads: sizes of vmlinuz, initrd.img and pxelinux.0.
const kernelSize, initrdSize, loaderSize = 8_250_000, 19_400_000, 42_000

// point is one storm: how many machines, and when the last one was up.
type point struct {
	machines int
	last     time.Duration
}

type series struct {
	name   string
	policy string
	sizes  []int
	points []point
}

// BenchmarkStorm switches more and more machines on at the same moment. Machines and server share the processors of this host, so
// what is seen is the least that one server stands. With -update the picture of the README is drawn anew.
func BenchmarkStorm(b *testing.B) {
	need.Root(b)
	need.Tools(b, "dnsmasq")
	calls := trace(b)
	folder := makeStore(b, calls, kernelSize, initrdSize, loaderSize)
	all := []*series{
		{name: "kernel by TFTP (pxelinux)", policy: "ipxe: pxelinux\n", sizes: []int{1, 10, 50, 100, 200}},
		{name: "kernel by HTTP (lpxelinux)", policy: "ipxe: pxelinux\nloader: lpxelinux.0\n", sizes: []int{1, 10, 50, 100, 200, 350, 500}},
	}
	var text strings.Builder
	for b.Loop() {
		for _, s := range all {
			s.points = nil
			for _, n := range s.sizes {
				p, report := storm(b, folder, s.policy, n, calls)
				s.points = append(s.points, p)
				fmt.Fprintf(&text, "%d machines, %s\n%s\n", n, s.name, report)
				b.Logf("%d machines, %s\n%s", n, s.name, report)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, s := range all {
		last := s.points[len(s.points)-1]
		word, _, _ := strings.Cut(strings.TrimPrefix(s.name, "kernel by "), " ")
		b.ReportMetric(last.last.Seconds(), fmt.Sprintf("s/%d-machines-%s", last.machines, word))
	}
	if *update {
		must(b, os.WriteFile("testdata/storm.txt", []byte(text.String()), 0o644))
		must(b, os.WriteFile("testdata/storm.svg", []byte(plot(all)), 0o644))
	}
}

func storm(b *testing.B, folder, policy string, machines int, calls []Call) (point, string) {
	b.Helper()
	lab, _, cfg := site(b, folder, policy, nil)
	defer lab.Close()
	cfg.Machines, cfg.Trace = machines, calls
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	defer cancel()
	boots, err := Run(ctx, cfg)
	must(b, err)
	last := slices.MaxFunc(boots, func(x, y Boot) int { return int(x.After["up"] - y.After["up"]) })
	return point{machines, last.After["up"]}, summary(boots)
}

// plot draws the seconds to the last machine up over the number of machines.
func plot(all []*series) string {
	const w, h, left, bottom, top = 640, 340, 50, 40, 20
	most, longest := 1.0, 1.0
	for _, s := range all {
		for _, p := range s.points {
			most, longest = max(most, float64(p.machines)), max(longest, p.last.Seconds())
		}
	}
	step := niceStep(longest)
	longest = step * float64(int(longest/step)+1)
	x := func(n float64) float64 { return left + n/most*(w-left-20) }
	y := func(s float64) float64 { return h - bottom - s/longest*(h-bottom-top) }
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", w, h)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/>`+"\n", w, h)
	for s := 0.0; s <= longest; s += step {
		fmt.Fprintf(&out, `<line x1="%d" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g s</text>`+"\n", left, y(s), x(most), y(s), left-6, y(s)+4, s)
	}
	for n := 0.0; n <= most; n += most / 5 {
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n", x(n), h-bottom+18, n)
	}
	fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="middle">machines switched on at once; time until the last is up</text>`+"\n", (w+left)/2, h-6)
	for i, s := range all {
		colour := []string{"#c33", "#36c", "#393"}[i%3]
		var line []string
		for _, p := range s.points {
			at := fmt.Sprintf("%.1f,%.1f", x(float64(p.machines)), y(p.last.Seconds()))
			line = append(line, at)
			cx, cy, _ := strings.Cut(at, ",")
			fmt.Fprintf(&out, `<circle cx="%s" cy="%s" r="3" fill="%s"/>`+"\n", cx, cy, colour)
		}
		fmt.Fprintf(&out, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(line, " "), colour)
		fmt.Fprintf(&out, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+12, top+14+i*18, colour, s.name)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// niceStep cuts a range into about five steps of 1, 2 or 5 times a power of ten.
func niceStep(most float64) float64 {
	step := 0.1
	for _, by := range []float64{2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2} {
		if most/step <= 6 {
			break
		}
		step *= by
	}
	return step
}
