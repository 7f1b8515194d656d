package rpmfixture

// EL9 is shaped like a current distribution of the Enterprise Linux family: x86_64, systemd, /usr merged, zstd payloads, rich
// dependencies, signatures of today.
func EL9() Distribution {
	return Distribution{
		Name: "el9", Arch: "amd64",
		Debian: []string{"linux-image-amd64", "systemd-sysv", "udev", "dbus", "iproute2", "isc-dhcp-client", "kmod", "iputils-ping", "netbase", "procps", "openssh-server", "rpm", "passwd", "login", "less", "ca-certificates", "hostname"},
		Rename: map[string]string{
			"linux-image-amd64": "kernel", "systemd-sysv": "systemd-init", "udev": "systemd-udev", "iproute2": "iproute", "isc-dhcp-client": "dhcp-client",
			"iputils-ping": "iputils", "procps": "procps-ng", "passwd": "shadow-utils", "libc6": "glibc", "libc-bin": "glibc-common", "librpm9": "rpm-libs",
			"perl-base": "perl-interpreter", "zlib1g": "zlib", "login": "util-linux-core",
		},
		Requires: map[string][]string{
			"systemd": {"systemd-init"}, "bash": {"filesystem", "glibc"}, "rpm": {"coreutils", "sed", "grep", "findutils", "gzip", "tar", "util-linux"}, "util-linux": {"mount"}, "glibc": {"filesystem", "glibc-common"},
			// As EL 9 has them, of both kinds that its own packages use.
			"openssh-server": {"(systemd-udev if systemd)", "(shadow-utils >= 1 or sysusers)"},
		},
		Provides: map[string]string{"dash": "/bin/sh"},
		Scripts: map[string]string{
			"kernel":         "%posttrans\nfor release in /lib/modules/*; do /sbin/depmod -a ${release##*/}; done\n",
			"glibc-common":   "%transfiletriggerin -P 2000000 -- /lib /usr/lib\n/sbin/ldconfig\n%transfiletriggerin -P 1 -p <lua> -- /usr/lib/sysusers.d\nos.execute(\"/usr/bin/systemd-sysusers\")\n",
			"openssh-server": "%pre\ngetent group sshd >/dev/null || groupadd -g 74 -r sshd || :\ngetent passwd sshd >/dev/null || useradd -c 'Privilege-separated SSH' -u 74 -g sshd -s /sbin/nologin -r -d /run/sshd sshd || :\n%post\nif [ $1 -eq 1 ]; then systemctl preset ssh.service; fi\n",
		},
		Paths: []string{"9/BaseOS/x86_64/os", "9/AppStream/x86_64/os"}, Merged: true, Payload: "w3.zstdio", Checksum: "sha256", Signing: &Signing{Program: "gpg"},
		Own: append([]Own{
			setup, filesystem(true),
			{Name: "almalinux-release", Tags: "Requires: setup\nRequires: filesystem\nRequires: systemd\n", Scripts: "%posttrans\nsystemctl preset-all\n", Files: map[string]string{
				"etc/pam.d/common-auth": pam("auth"), "etc/pam.d/common-account": pam("account"), "etc/pam.d/common-password": pam("password"),
				"etc/pam.d/common-session": pam("session"), "etc/pam.d/common-session-noninteractive": pam("session"),
				"etc/ssh/sshd_config": "UsePAM no\nSubsystem sftp internal-sftp\n",
			}, List: "%config(noreplace) /etc/pam.d/*\n%config(noreplace) /etc/ssh/sshd_config\n"},
		}, oddities...),
		Comps: comps("core", "Core", "Smallest possible installation", []string{"almalinux-release", "bash", "openssh-server", "systemd", "shadow-utils"}, []string{"iputils", "less", "procps-ng"},
			[2]string{"oddities-doc", "oddities"}, [2]string{"oddities-never", "oddities-later"}),
	}
}
