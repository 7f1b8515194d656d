package metrics

import (
	"bufio"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"netroot/boot/httpd"
	"netroot/boot/nfs"
	"netroot/boot/nodes"
	"netroot/boot/proxydhcp"
	"netroot/boot/tftp"
	"netroot/builder/golden"
)

// example has a value of its own in every figure.
func example() Sources {
	return Sources{
		Nodes: func() nodes.Stats {
			return nodes.Stats{
				Machines: map[string]int{"up": 40, "stalled": 2}, Begun: 50,
				Reached: map[string]uint64{"offer": 49, "up": 41}, Stalled: map[string]uint64{"initrd": 3, "offer": 0},
				Duration: nodes.Histogram{Count: 41, Sum: 1640.5, Buckets: []uint64{0, 0, 0, 1, 33, 40, 41, 41, 41, 41, 41, 41}},
			}
		},
		DHCP: func() proxydhcp.Stats {
			return proxydhcp.Stats{Discovers: 101, Requests: 102, Informs: 103, Others: 104, Malformed: 105, Offers: 106, Acks: 107, Refused: 108, BytesIn: 109, BytesOut: 110}
		},
		TFTP: func() tftp.Stats {
			return tftp.Stats{Requests: 201, Refused: 202, Malformed: 203, Reads: 204, Aborted: 205, Probes: 206, Active: 207, Bytes: 208, Retransmits: 209, Cold: 210}
		},
		HTTP: func() httpd.Stats {
			return httpd.Stats{Requests: 301, Refused: 302, Aborted: 303, Active: 304, Bytes: 305}
		},
		NFS: func() nfs.Stats {
			return nfs.Stats{Connections: 4, Accepted: 44, Calls: map[string]uint64{"READ": 1000, "LOOKUP": 200, "OTHER": 7}, Errors: 5, Stale: 1,
				ReadBytes: 1 << 30, ColdReads: 11, Latencies: map[string]nfs.Latency{
					"READ": {Count: 63, Seconds: 0.5, Buckets: [10]uint64{10, 20, 30, 40, 50, 60, 61, 62, 62, 62}},
				}}
		},
	}
}

// Names, types and helps are as promlint wants them, and each figure comes out where it belongs.
func TestMetrics(t *testing.T) {
	problems, err := testutil.CollectAndLint(example())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	w := httptest.NewRecorder()
	Handler(example()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var ours strings.Builder
	process := false
	for in := bufio.NewScanner(w.Body); in.Scan(); {
		if line := in.Text(); strings.Contains(line, "netroot_") {
			ours.WriteString(line + "\n")
		} else if strings.HasPrefix(line, "process_resident_memory_bytes ") {
			process = true
		}
	}
	if !process {
		t.Error("nothing tells the memory of the process")
	}
	golden.Compare(t, "testdata/metrics.txt", ours.String())
}

// A service that is switched off has no metrics, rather than such that stay at zero.
func TestNoService(t *testing.T) {
	if n := testutil.CollectAndCount(Sources{}); n != 0 {
		t.Errorf("%d metrics", n)
	}
}
