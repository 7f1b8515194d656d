package customize

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"netroot/builder/chroot"
	"netroot/builder/need"
)

func TestMain(m *testing.M) {
	chroot.Main()
	os.Exit(m.Run())
}

// hostSession opens this machine's own root, which is only read: all changes go to a layer that is thrown away.
func hostSession(t *testing.T) *chroot.Session {
	t.Helper()
	need.Root(t)
	need.Tools(t, "useradd", "chpasswd", "systemctl", "systemd-analyze", "ssh-keygen")
	s, err := chroot.Open(t.Context(), chroot.Config{Lower: "/", Work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sh runs a script in the session and returns what it prints.
func sh(t *testing.T, s *chroot.Session, script string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if err := s.Run(ctx, chroot.Command{Args: []string{"/bin/sh", "-ec", script}, Env: env, Output: &out}); err != nil {
		t.Errorf("%s: %v\n%s", script, err, out.String())
	}
	return out.String()
}

const boot = `IMAGE='lab'
GENERATION='3'
SERVER='192.0.2.1'
IFACE='eth7'
MAC='02:00:00:00:00:07'
ADDRESS='192.0.2.7'
PREFIX='24'
GATEWAY='192.0.2.1'
DNS='192.0.2.2'
DOMAIN='lab.example'
HOSTNAME='vmegr'
`

// With the real tools of a real root: users, services, hooks, and netroot's own scripts and units.
func TestApply(t *testing.T) {
	need.Patience(t)
	s := hostSession(t)
	const hash = "$6$SPjKoh.hFKYQB8fv$toe1O05dDAws7KZ5Ph.SMgaaSwCh86CT0q60KgTimB6MvVgPZrwdA62mELVSB2o25jnadkDEAwdUdrHxSryY6."
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILoENZGm7dc5k8BjL4BJJw5LlmELrpd4kqbdh7ruLcDM me@desk"
	rec := load(t, `
hostname: labhost
users:
  - {name: root, ssh_keys: ["`+key+`"], password: "!"}
  - {name: operator}
  - {name: beamline, uid: 4321, groups: [adm, newgroup], password: "`+hash+`", ssh_keys: ["`+key+`"]}
files:
  - {path: /etc/netroot-test.service, content: "x", owner: beamline:newgroup}
  - path: /etc/systemd/system/netroot-test.service
    content: "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
services: {enable: [netroot-test]}
hooks:
  - name: plain
    script: |
      echo "hook of $NETROOT_IMAGE" >/etc/netroot-hook
      id -u >>/etc/netroot-hook
      ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_hook_key
  - name: own interpreter
    script: "#!/bin/bash\necho $BASH_VERSION | grep -q . && echo bash >>/etc/netroot-hook"
`)
	var log bytes.Buffer
	if _, err := Apply(t.Context(), rec, s, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"getent passwd beamline":               "beamline:x:4321:4321::/home/beamline:/bin/bash\n",
		"id -nG beamline":                      "beamline adm newgroup\n",
		"getent shadow beamline | cut -d: -f2": hash + "\n",
		"id -gn operator":                      "operator\n",
		"getent shadow root | cut -d: -f2":     "!\n",
		"stat -c '%a %U:%G' ~beamline/.ssh ~beamline/.ssh/authorized_keys":                    "700 beamline:beamline\n600 beamline:beamline\n",
		"stat -c '%a %U:%G' /etc/netroot-test.service":                                        "644 beamline:newgroup\n",
		"cat /root/.ssh/authorized_keys":                                                      key + "\n",
		"systemctl is-enabled netroot-test netroot-stage-up netroot-lease":                    "enabled\nstatic\nstatic\n",
		"cat /etc/netroot-hook":                                                               "hook of lab\n0\nbash\n",
		"ls /etc/ssh | grep -c ssh_host_ || :":                                                "0\n",
		"ls /tmp /etc/resolv.conf; wc -c </etc/machine-id":                                    "/etc/resolv.conf\n\n/tmp:\n0\n",
		"cat /etc/hostname; systemd-analyze cat-config systemd/journald.conf | grep ^Storage": "labhost\nStorage=volatile\n",
	} {
		if script == "systemctl is-enabled netroot-test netroot-stage-up netroot-lease" {
			script += " || :" // its exit code tells whether all are
		}
		if got := sh(t, s, script, "SYSTEMD_OFFLINE=1"); got != want {
			t.Errorf("%s:\n%s, want\n%s", script, got, want)
		}
	}
	if !strings.Contains(log.String(), "newgroup") {
		t.Errorf("the group that was made is not in the log: %s", log.String())
	}

	t.Run("units", func(t *testing.T) {
		// Its generators and the units of this machine may complain of things that are not ours.
		out := sh(t, s, "systemd-analyze --man=no --generators=no verify $(ls /usr/lib/systemd/system/netroot-*.service) 2>&1 || :", "SYSTEMD_LOG_LEVEL=warning")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "netroot") && !strings.Contains(line, "/sbin/dhclient is not executable") {
				t.Errorf("%s", line)
			}
		}
	})

	sh(t, s, "mkdir /run/netroot; cat >/run/netroot/boot <<'END'\n"+boot+"END\nprintf 'search lab.example\\nnameserver 192.0.2.2\\n' | tee /run/netroot/resolv.conf >/etc/resolv.conf")

	t.Run("stage", func(t *testing.T) {
		// /dev/console of a session is the host's: a file takes its place.
		got := sh(t, s, "rm -f /dev/console; : >/dev/console; /usr/lib/netroot/stage up; cat /dev/console; rm /dev/console")
		if got != "netroot: image=lab generation=3 stage=up\n" {
			t.Errorf("%q", got)
		}
	})

	t.Run("ssh keys", func(t *testing.T) {
		got := sh(t, s, "/usr/lib/netroot/ssh-keys; cd /etc/ssh; stat -c '%n %a' ssh_host_*_key; ssh-keygen -lf ssh_host_ed25519_key | grep -o ED25519")
		if got != "ssh_host_ed25519_key 600\nED25519\n" {
			t.Errorf("%q", got)
		}
	})

	t.Run("lease", func(t *testing.T) {
		// An ip that only tells how it was called: the session shares this machine's network.
		sh(t, s, "mkdir -p /tmp/bin; printf '#!/bin/sh\\necho ip \"$@\" >>/tmp/calls\\n' >/tmp/bin/ip; chmod 755 /tmp/bin/ip")
		const path = "PATH=/tmp/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, c := range []struct {
			what       string
			env        []string
			calls, dns string
		}{
			{"renewed as it was", []string{"reason=RENEW", "new_ip_address=192.0.2.7", "old_ip_address=192.0.2.7", "new_routers=192.0.2.1", "old_routers=192.0.2.1",
				"new_domain_name_servers=192.0.2.2", "new_domain_name=lab.example"}, "", "192.0.2.2"},
			{"lease is over", []string{"reason=EXPIRE", "old_ip_address=192.0.2.7"}, "", "192.0.2.2"},
			{"given back", []string{"reason=RELEASE", "old_ip_address=192.0.2.7"}, "", "192.0.2.2"},
			{"before the first", []string{"reason=PREINIT"}, "", "192.0.2.2"},
			{"from the network, with a trap", []string{"reason=RENEW", "new_ip_address=192.0.2.7", "new_domain_name_servers=$(touch /tmp/trap)"}, "", "192.0.2.2"},
			{"another name server", []string{"reason=RENEW", "new_ip_address=192.0.2.7", "new_domain_name_servers=192.0.2.3", "new_domain_name=lab.example"}, "", "192.0.2.3"},
			{"another address and router", []string{"reason=BOUND", "new_ip_address=192.0.2.8", "new_subnet_mask=255.255.255.0", "new_routers=192.0.2.9 192.0.2.1", "old_routers=192.0.2.1"},
				"ip addr add 192.0.2.8/255.255.255.0 broadcast + dev eth7\nip route replace default via 192.0.2.9 dev eth7\n", "192.0.2.3"},
		} {
			sh(t, s, "rm -f /tmp/calls; /usr/lib/netroot/lease-script", append(c.env, path)...)
			if got := sh(t, s, "cat /tmp/calls 2>/dev/null || :"); got != c.calls {
				t.Errorf("%s: %q", c.what, got)
			}
			if got := sh(t, s, "grep nameserver /etc/resolv.conf; ls /tmp/trap 2>/dev/null || :"); got != "nameserver "+c.dns+"\n" {
				t.Errorf("%s: resolv.conf has %q", c.what, got)
			}
		}
		if got := sh(t, s, "cat /dev/kmsg"); got != "netroot: DHCP says EXPIRE; eth7 keeps 192.0.2.7, because / comes over it\n"+
			"netroot: DHCP now gives 192.0.2.8; eth7 takes it and keeps 192.0.2.7, because / comes over it\n" {
			t.Errorf("told: %q", got)
		}
		sh(t, s, "echo nameserver 10.0.0.1 >/etc/resolv.conf; /usr/lib/netroot/lease-script; grep -q 10.0.0.1 /etc/resolv.conf",
			"reason=RENEW", "new_ip_address=192.0.2.7", "new_domain_name_servers=192.0.2.4", path)
	})
}

// What a hook, a service or a user's shell gets wrong is named, with the last lines of output.
func TestApplyFailures(t *testing.T) {
	s := hostSession(t)
	for fault, want := range map[string][]string{
		"hooks: [{name: break it, script: 'echo so sad; false; echo not reached'}]": {`hooks: "break it"`, "exit code 1", "so sad"},
		"services: {enable: [no-such-thing]}":                                       {"services: enable no-such-thing", "does not exist"},
		"users: [{name: a, shell: /bin/nosuchshell}]":                               {"users: a", "no shell /bin/nosuchshell"},
		"files: [{path: /etc/x, content: x, owner: 'nobodyhere:root'}]":             {"files: /etc/x", "no user nobodyhere"},
	} {
		_, err := Apply(t.Context(), load(t, fault+"\n"), s, nil)
		if err == nil {
			t.Errorf("%s: no error", fault)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", fault, err, w)
			}
		}
		if strings.Contains(err.Error(), "not reached") {
			t.Errorf("%s: went on after a failing line: %v", fault, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Apply(ctx, load(t, ""), s, nil); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
