// Package metrics turns the figures that the services keep into Prometheus metrics, at the moment they are asked for. It
// counts nothing itself, so a service costs the same whether anybody looks or not. Figures start at zero with the server.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"netroot/boot/httpd"
	"netroot/boot/nfs"
	"netroot/boot/nodes"
	"netroot/boot/proxydhcp"
	"netroot/boot/tftp"
)

// Sources are where figures come from; a service that is not served has none.
type Sources struct {
	Nodes func() nodes.Stats
	DHCP  func() proxydhcp.Stats
	TFTP  func() tftp.Stats
	HTTP  func() httpd.Stats
	NFS   func() nfs.Stats
}

// Handler answers with all metrics, and those of the process itself.
func Handler(s Sources) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(s, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// Describe implements prometheus.Collector.
func (s Sources) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s Sources) Collect(ch chan<- prometheus.Metric) {
	if s.Nodes != nil {
		collectNodes(ch, s.Nodes())
	}
	if s.DHCP != nil {
		collectDHCP(ch, s.DHCP())
	}
	if s.TFTP != nil {
		collectTFTP(ch, s.TFTP())
	}
	if s.HTTP != nil {
		collectHTTP(ch, s.HTTP())
	}
	if s.NFS != nil {
		collectNFS(ch, s.NFS())
	}
}

var (
	machines     = desc("machines", "Machines seen, by the stage of their boot; stalled are those of which the next stage did not come.", "stage")
	bootsBegun   = desc("boots_total", "Boots begun.")
	bootsReached = desc("boot_stages_total", "Boots that reached a stage.", "stage")
	bootsStalled = desc("boot_stalls_total", "Boots that stopped after a stage.", "stage")
	bootSeconds  = desc("boot_duration_seconds", "Time from the first sign of a boot until the machine was up.")
)

func collectNodes(ch chan<- prometheus.Metric, s nodes.Stats) {
	for stage, n := range s.Machines {
		gauge(ch, machines, float64(n), stage)
	}
	counter(ch, bootsBegun, s.Begun)
	counters(ch, bootsReached, s.Reached)
	counters(ch, bootsStalled, s.Stalled)
	buckets := make(map[float64]uint64, len(nodes.BootSeconds))
	for i, bound := range nodes.BootSeconds {
		buckets[bound] = s.Duration.Buckets[i]
	}
	ch <- prometheus.MustNewConstHistogram(bootSeconds, s.Duration.Count, s.Duration.Sum, buckets)
}

var (
	dhcpPackets   = desc("dhcp_packets_total", "DHCP packets that came in, by message type, whoever they were for.", "type")
	dhcpMalformed = desc("dhcp_malformed_packets_total", "Packets on the DHCP ports that were no request.")
	dhcpAnswers   = desc("dhcp_answers_total", "Answers to machines that boot, by message type.", "type")
	dhcpRefused   = desc("dhcp_refused_total", "Machines that asked what to boot and got no answer.")
	dhcpReceived  = desc("dhcp_received_bytes_total", "Bytes of DHCP packets that came in.")
	dhcpSent      = desc("dhcp_sent_bytes_total", "Bytes of DHCP answers.")
)

func collectDHCP(ch chan<- prometheus.Metric, s proxydhcp.Stats) {
	counters(ch, dhcpPackets, map[string]uint64{"discover": s.Discovers, "request": s.Requests, "inform": s.Informs, "other": s.Others})
	counter(ch, dhcpMalformed, s.Malformed)
	counters(ch, dhcpAnswers, map[string]uint64{"offer": s.Offers, "ack": s.Acks})
	counter(ch, dhcpRefused, s.Refused)
	counter(ch, dhcpReceived, s.BytesIn)
	counter(ch, dhcpSent, s.BytesOut)
}

var (
	tftpRequests    = desc("tftp_requests_total", "TFTP requests.")
	tftpRefused     = desc("tftp_refused_total", "TFTP requests that were not served.")
	tftpMalformed   = desc("tftp_malformed_packets_total", "Packets on the TFTP port that were no request.")
	tftpTransfers   = desc("tftp_transfers_total", "TFTP transfers that ended, by how: read to the end, aborted, or a probe for the size.", "result")
	tftpActive      = desc("tftp_active_transfers", "TFTP transfers under way.")
	tftpSent        = desc("tftp_sent_bytes_total", "Bytes of files sent by TFTP.")
	tftpRetransmits = desc("tftp_retransmits_total", "TFTP data packets sent again.")
	tftpColdReads   = desc("tftp_cold_reads_total", "Reads for TFTP that waited for the disk.")
)

func collectTFTP(ch chan<- prometheus.Metric, s tftp.Stats) {
	counter(ch, tftpRequests, s.Requests)
	counter(ch, tftpRefused, s.Refused)
	counter(ch, tftpMalformed, s.Malformed)
	counters(ch, tftpTransfers, map[string]uint64{"read": s.Reads, "aborted": s.Aborted, "probe": s.Probes})
	gauge(ch, tftpActive, float64(s.Active))
	counter(ch, tftpSent, s.Bytes)
	counter(ch, tftpRetransmits, s.Retransmits)
	counter(ch, tftpColdReads, s.Cold)
}

var (
	httpRequests = desc("http_requests_total", "HTTP requests for files.")
	httpRefused  = desc("http_refused_total", "HTTP requests for files that were answered with an error.")
	httpAborted  = desc("http_aborted_total", "Files that HTTP did not send to the end.")
	httpActive   = desc("http_active_transfers", "Files that HTTP is sending.")
	httpSent     = desc("http_sent_bytes_total", "Bytes of files sent by HTTP, counted when each ends.")
)

func collectHTTP(ch chan<- prometheus.Metric, s httpd.Stats) {
	counter(ch, httpRequests, s.Requests)
	counter(ch, httpRefused, s.Refused)
	counter(ch, httpAborted, s.Aborted)
	gauge(ch, httpActive, float64(s.Active))
	counter(ch, httpSent, s.Bytes)
}

var (
	nfsConnections = desc("nfs_connections", "NFS connections that are open.")
	nfsAccepted    = desc("nfs_accepted_connections_total", "NFS connections that were opened.")
	nfsOperations  = desc("nfs_operations_total", "NFS calls, by procedure; OTHER are those of MOUNT and the portmapper.", "operation")
	nfsLatency     = desc("nfs_operation_duration_seconds", "Time from an NFS call until its reply was ready, of every sixteenth call.", "operation")
	nfsErrors      = desc("nfs_errors_total", "NFS calls that were not understood or got an error other than that a name is not there.")
	nfsStale       = desc("nfs_stale_handles_total", "NFS calls with a handle of an image that is not here.")
	nfsReadBytes   = desc("nfs_read_bytes_total", "Bytes of files sent by NFS.")
	nfsColdReads   = desc("nfs_cold_reads_total", "NFS reads that waited for the disk.")
)

func collectNFS(ch chan<- prometheus.Metric, s nfs.Stats) {
	gauge(ch, nfsConnections, float64(s.Connections))
	counter(ch, nfsAccepted, uint64(s.Accepted))
	counters(ch, nfsOperations, s.Calls)
	for name, l := range s.Latencies {
		buckets := make(map[float64]uint64, len(l.Buckets))
		for i, bound := range nfs.LatencySeconds {
			buckets[bound] = l.Buckets[i]
		}
		ch <- prometheus.MustNewConstHistogram(nfsLatency, l.Count, l.Seconds, buckets, name)
	}
	counter(ch, nfsErrors, s.Errors)
	counter(ch, nfsStale, s.Stale)
	counter(ch, nfsReadBytes, s.ReadBytes)
	counter(ch, nfsColdReads, s.ColdReads)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("netroot_"+name, help, labels, nil)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func counters(ch chan<- prometheus.Metric, d *prometheus.Desc, by map[string]uint64) {
	for label, v := range by {
		counter(ch, d, v, label)
	}
}
