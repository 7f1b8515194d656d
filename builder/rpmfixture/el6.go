package rpmfixture

// EL6 is shaped like Scientific Linux CERN 6 for i686 without PAE: sysvinit with an rc.sysinit, init scripts that read
// /etc/sysconfig, nothing merged into /usr, gzip payloads, SHA-1 metadata, and signatures of version 3 by RSA and SHA-1.
func EL6() Distribution {
	return Distribution{
		Name: "el6", Arch: "i386",
		Debian: []string{"linux-image-686", "sysvinit-core", "sysvinit-utils", "udev", "iproute2", "isc-dhcp-client", "kmod", "iputils-ping", "netbase", "procps", "openssh-server", "rpm", "passwd", "login",
			"less", "hostname", "mount", "bash", "dash", "coreutils", "sed", "grep", "findutils", "gzip", "tar", "util-linux", "mawk", "ncurses-base"},
		Drop: []string{"adduser", "debconf-2.0", "initscripts", "sysv-rc", "lsb-base", "init-system-helpers", "ucf", "runit-helper", "libpam-runtime", "perl", "debugedit"},
		// Debian's init scripts want functions of Debian's.
		Strip: []string{"etc/init.d", "etc/rc?.d", "etc/default", "usr/share/doc-base", "usr/share/perl5", "usr/share/bug", "usr/share/icu"},
		Rename: map[string]string{
			"linux-image-686": "kernel", "sysvinit-core": "SysVinit", "sysvinit-utils": "SysVinit-tools", "iproute2": "iproute", "isc-dhcp-client": "dhclient", "kmod": "module-init-tools",
			"iputils-ping": "iputils", "openssh-server": "openssh-daemon", "openssh-client": "openssh-clients", "passwd": "shadow-utils", "login": "util-linux-login",
			"util-linux": "util-linux-ng", "libc6": "glibc", "libc-bin": "glibc-common", "librpm9": "rpm-libs", "zlib1g": "zlib", "hostname": "net-tools", "mawk": "gawk",
		},
		Requires: map[string][]string{
			"bash": {"filesystem", "glibc", "dash"}, "glibc": {"filesystem", "glibc-common"}, "util-linux-ng": {"mount", "util-linux-login"},
			"rpm": {"coreutils", "grep", "sed", "findutils"}, "SysVinit": {"initscripts", "/sbin/killall5"}, "kernel": {"module-init-tools"},
		},
		Provides: map[string]string{"dash": "/bin/sh"},
		Scripts: map[string]string{
			"kernel":            "%posttrans\nfor release in /lib/modules/*; do /sbin/depmod -a ${release##*/}; done\n",
			"glibc-common":      "%transfiletriggerin -P 2000000 -- /lib /usr/lib\n/sbin/ldconfig\n",
			"zlib":              "%post -p /sbin/ldconfig\n%postun -p /sbin/ldconfig\n",
			"module-init-tools": "%pre\n[ $1 = 1 ] || echo called with $1\n",
		},
		Paths: []string{"slc68/i386nonpae"}, Payload: "w1.gzdio", Checksum: "sha",
		Signing: &Signing{Program: "gpg1", Args: []string{"--force-v3-sigs", "--digest-algo", "SHA1"}, V3: true},
		Own: []Own{
			setup, filesystem(false), initscripts, chkconfig, sshServer,
			{Name: "sl-release", Tags: "Requires: setup\nProvides: system-release\n", Files: map[string]string{
				"etc/redhat-release": "Scientific Linux CERN SLC release 6.8 (test)\n", "etc/system-release": "-> redhat-release",
				"etc/pam.d/common-auth": pam("auth"), "etc/pam.d/common-account": pam("account"), "etc/pam.d/common-password": pam("password"),
				"etc/pam.d/common-session": pam("session"), "etc/pam.d/common-session-noninteractive": pam("session"), "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
			}, List: "/etc/redhat-release\n/etc/system-release\n%config(noreplace) /etc/pam.d/*\n%config(noreplace) /etc/nsswitch.conf\n"},
		},
		Comps: comps("base", "Base", "The basic installation of Scientific Linux.", []string{"bash", "filesystem", "initscripts", "SysVinit", "rpm", "sl-release", "udev", "util-linux-ng"}, []string{"less", "iputils", "procps"}),
	}
}

// initscripts does what the package of that name does on EL6, as far as a machine with a network root and two cards needs it. Its
// init script for the network does nothing at all without /etc/sysconfig/network, as there.
var initscripts = Own{
	Name: "initscripts", Tags: "Requires: /sbin/chkconfig\nRequires: udev\nRequires: gawk\nRequires: iproute\nRequires: net-tools\nRequires: SysVinit-tools\n",
	Scripts: "%post\n/sbin/chkconfig --add network\n/sbin/chkconfig --add netfs\ntouch /var/log/wtmp /var/run/utmp\nchown root:utmp /var/log/wtmp /var/run/utmp\nchmod 664 /var/log/wtmp /var/run/utmp\n",
	Files: map[string]string{
		"etc/inittab": "id:3:initdefault:\nsi::sysinit:/etc/rc.d/rc.sysinit\nl0:0:wait:/etc/rc.d/rc 0\nl2:2:wait:/etc/rc.d/rc 2\nl3:3:wait:/etc/rc.d/rc 3\nl6:6:wait:/etc/rc.d/rc 6\n" +
			"ca::ctrlaltdel:/sbin/shutdown -t3 -r now\n1:2345:respawn:/sbin/agetty --noclear tty1 38400 linux\n",
		"etc/rc.d/rc.sysinit": `#!/bin/bash
# Brings a machine up as far as init needs it.
[ -f /etc/sysconfig/network ] && . /etc/sysconfig/network
[ -n "$HOSTNAME" ] && [ "$HOSTNAME" != "(none)" ] || HOSTNAME=localhost
mountpoint -q /proc || mount -n -t proc proc /proc
mountpoint -q /sys || mount -n -t sysfs sysfs /sys
echo "Starting udev"
/lib/systemd/systemd-udevd --daemon && udevadm trigger --action=add && udevadm settle --timeout=60
hostname "$HOSTNAME"
mount -a -t tmpfs,devpts,sysfs,proc 2>/dev/null
[ -f /etc/sysconfig/readonly-root ] && . /etc/sysconfig/readonly-root
[ "$READONLY" = yes ] || mount -n -o remount,rw / 2>/dev/null
rm -f /var/lock/subsys/*
dmesg >/var/log/dmesg
exit 0
`,
		"etc/rc.d/rc": `#!/bin/bash
# Stops and starts the services of a runlevel.
for i in /etc/rc$1.d/K*; do
	name=${i##*/K??}
	[ -x "$i" ] && [ -f "/var/lock/subsys/$name" ] && "$i" stop
done
for i in /etc/rc$1.d/S*; do
	name=${i##*/S??}
	[ -x "$i" ] || continue
	[ -f "/var/lock/subsys/$name" ] && continue
	case $1 in
	0 | 6) exec "$i" start ;;
	*) "$i" start ;;
	esac
done
exit 0
`,
		"etc/rc.d/init.d/halt": `#!/bin/bash
# Stops what is left and the machine.
/sbin/killall5 -15
sleep 1
/sbin/killall5 -9
case $0 in
*halt) exec /sbin/halt -d -p -f ;;
*reboot) exec /sbin/reboot -d -f ;;
esac
`,
		"etc/rc.d/rc0.d/S01halt": "-> ../init.d/halt", "etc/rc.d/rc6.d/S01reboot": "-> ../init.d/halt",
		"etc/rc.d/init.d/functions": "PATH=/sbin:/usr/sbin:/bin:/usr/bin\nexport PATH\naction() { local what=$1; shift; if \"$@\"; then echo \"$what [  OK  ]\"; else echo \"$what [FAILED]\"; return 1; fi; }\n",
		"etc/rc.d/init.d/network": `#!/bin/bash
# network       Bring up/down networking
#
# chkconfig: 2345 10 90
# description: Activates and deactivates the network interfaces that are configured to start at boot.
. /etc/init.d/functions
[ -f /etc/sysconfig/network ] || exit 6
. /etc/sysconfig/network
[ "$NETWORKING" = no ] && exit 6
cd /etc/sysconfig/network-scripts || exit 6
case $1 in
start)
	action "Bringing up loopback interface: " ./ifup ifcfg-lo
	for i in ifcfg-*; do
		grep -q '^ONBOOT="*[Nn]' "$i" || [ "$i" = ifcfg-lo ] || action "Bringing up interface ${i#ifcfg-}: " ./ifup "$i"
	done
	touch /var/lock/subsys/network
	;;
stop)
	grep -q ' / nfs' /proc/mounts && { echo "/ is on the network: it stays"; exit 1; }
	rm -f /var/lock/subsys/network
	;;
esac
exit 0
`,
		"etc/rc.d/init.d/netfs": "#!/bin/bash\n# netfs\n#\n# chkconfig: 345 25 75\n# description: Mounts network file systems.\ncase $1 in\nstart) mount -a -t nfs && touch /var/lock/subsys/netfs ;;\nstop) rm -f /var/lock/subsys/netfs ;;\nesac\n",
		"etc/sysconfig/network-scripts/ifup": `#!/bin/bash
# Brings up one interface.
cd /etc/sysconfig/network-scripts && . "./${1#./}" || exit 1
ip link set "$DEVICE" up || exit 1
case $BOOTPROTO in
dhcp) exec /sbin/dhclient -1 -q -lf "/var/lib/dhclient/dhclient-$DEVICE.leases" -pf "/var/run/dhclient-$DEVICE.pid" "$DEVICE" ;;
esac
[ -z "$IPADDR" ] || ip addr add "$IPADDR/${NETMASK_BITS:-24}" dev "$DEVICE"
`,
		"etc/udev/rules.d/80-net-setup-link.rules": "-> /dev/null", // cards keep the kernel's names
		"etc/sysconfig/network-scripts/ifcfg-lo":   "DEVICE=lo\nIPADDR=127.0.0.1\nNETMASK_BITS=8\nONBOOT=yes\n",
		"etc/sysconfig/readonly-root":              "READONLY=no\nTEMPORARY_STATE=no\nRW_MOUNT=/var/lib/stateless/writable\n",
		"etc/rwtab":                                "dirs\t/var/log\nempty\t/tmp\nfiles\t/etc/resolv.conf\n",
		"etc/statetab":                             "# nothing\n",
	},
	List: "%config(noreplace) /etc/inittab\n/etc/rc.d/rc\n/etc/rc.d/rc.sysinit\n/etc/rc.d/init.d/functions\n/etc/rc.d/init.d/halt\n/etc/rc.d/init.d/network\n/etc/rc.d/init.d/netfs\n/etc/rc.d/rc0.d/S01halt\n/etc/rc.d/rc6.d/S01reboot\n" +
		"/etc/udev/rules.d/80-net-setup-link.rules\n%config /etc/sysconfig/network-scripts/ifcfg-lo\n/etc/sysconfig/network-scripts/ifup\n%config(noreplace) /etc/sysconfig/readonly-root\n%config(noreplace) /etc/rwtab\n%config(noreplace) /etc/statetab\n" +
		"%ghost %attr(0664,root,utmp) /var/log/wtmp\n%ghost %attr(0664,root,utmp) /var/run/utmp\n",
}

// chkconfig keeps the links of runlevels, by the line in each init script that it is named after.
var chkconfig = Own{
	Name: "chkconfig", Tags: "Requires: filesystem\nRequires: /bin/bash\n",
	Files: map[string]string{
		"sbin/chkconfig": `#!/bin/bash
# chkconfig --add NAME | NAME on | NAME off
case $1 in
--add) name=$2 state=on ;;
*) name=$1 state=$2 ;;
esac
read -r levels start stop < <(sed -n 's/^# chkconfig: *//p' "/etc/rc.d/init.d/$name") || exit 1
[ "$levels" != - ] || levels=2345
rm -f /etc/rc.d/rc?.d/[SK]??"$name"
for level in 0 1 2 3 4 5 6; do
	case $levels in
	*$level*) [ "$state" = on ] && ln -s "../init.d/$name" "/etc/rc.d/rc$level.d/S$start$name" && continue ;;
	esac
	ln -s "../init.d/$name" "/etc/rc.d/rc$level.d/K$stop$name"
done
`,
		"etc/rc.d/init.d/": "", "etc/init.d": "-> rc.d/init.d",
		"etc/rc.d/rc0.d/": "", "etc/rc.d/rc1.d/": "", "etc/rc.d/rc2.d/": "", "etc/rc.d/rc3.d/": "", "etc/rc.d/rc4.d/": "", "etc/rc.d/rc5.d/": "", "etc/rc.d/rc6.d/": "",
		"etc/rc0.d": "-> rc.d/rc0.d", "etc/rc1.d": "-> rc.d/rc1.d", "etc/rc2.d": "-> rc.d/rc2.d", "etc/rc3.d": "-> rc.d/rc3.d", "etc/rc4.d": "-> rc.d/rc4.d", "etc/rc5.d": "-> rc.d/rc5.d", "etc/rc6.d": "-> rc.d/rc6.d",
	},
	List: "/sbin/chkconfig\n%dir /etc/rc.d\n%dir /etc/rc.d/init.d\n%dir /etc/rc.d/rc?.d\n/etc/init.d\n/etc/rc?.d\n",
}

// sshServer makes its user before it owns files of that user, and starts by an init script.
var sshServer = Own{
	Name:    "openssh-server",
	Tags:    "Requires: openssh-daemon\nRequires(pre): /usr/sbin/useradd\nRequires(pre): /usr/sbin/groupadd\nRequires(post): /sbin/chkconfig\nRequires: initscripts\n",
	Scripts: "%pre\ngetent group sshd >/dev/null || groupadd -g 74 -r sshd || :\ngetent passwd sshd >/dev/null || useradd -c 'Privilege-separated SSH' -u 74 -g sshd -s /sbin/nologin -r -d /var/empty/sshd sshd || :\n%post\n/sbin/chkconfig --add sshd\n%triggerin -- initscripts\necho \"triggered $1 $2\" > /var/lib/openssh-server.trigger\n",
	Files: map[string]string{
		"etc/rc.d/init.d/sshd": "#!/bin/bash\n# sshd\n#\n# chkconfig: 2345 55 25\n# description: OpenSSH server daemon\ncase $1 in\nstart) mkdir -p /run/sshd && /usr/sbin/sshd && touch /var/lock/subsys/sshd ;;\nstop) rm -f /var/lock/subsys/sshd ;;\nesac\n",
		"etc/ssh/sshd_config":  "UsePAM no\nSubsystem sftp internal-sftp\n", // Debian's is made by its postinst
		"etc/sysconfig/sshd":   "# nothing\n", "var/empty/sshd/": "", "var/empty/sshd/etc/localtime": "UTC\n",
	},
	List: "/etc/rc.d/init.d/sshd\n%config(noreplace) /etc/ssh/sshd_config\n%attr(0640,root,sshd) %config(noreplace) /etc/sysconfig/sshd\n%attr(0711,root,root) %dir /var/empty/sshd\n%attr(0600,sshd,sshd) /var/empty/sshd/etc/localtime\n%ghost %attr(0644,root,root) /var/lib/openssh-server.trigger\n",
}
