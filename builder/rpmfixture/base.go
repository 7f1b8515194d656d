package rpmfixture

import (
	"fmt"
	"strings"
)

// setup has the files that every root begins with.
var setup = Own{
	Name: "setup",
	Files: map[string]string{
		"etc/passwd":      accounts,
		"etc/group":       groups,
		"etc/shadow":      "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
		"etc/gshadow":     "root:*::\n",
		"etc/host.conf":   "multi on\n",
		"etc/shells":      "/bin/sh\n/bin/bash\n",
		"etc/rpm/macros":  "%_dbpath /var/lib/rpm\n", // Debian's own is in the home of whoever calls it
		"etc/mtab":        "-> ../proc/self/mounts",
		"var/spool/mail/": "",
	},
	List: "%config(noreplace) /etc/passwd\n%config(noreplace) /etc/group\n%attr(0000,root,root) %config(noreplace) /etc/shadow\n%attr(0000,root,root) %config(noreplace) /etc/gshadow\n" +
		"%config(noreplace) /etc/host.conf\n%config(noreplace) /etc/shells\n%dir /etc/rpm\n/etc/rpm/macros\n/etc/mtab\n%attr(0775,root,mail) %dir /var/spool/mail\n",
}

const accounts = `root:x:0:0:root:/root:/bin/bash
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
mail:x:8:12:mail:/var/spool/mail:/sbin/nologin
nobody:x:65534:65534:Nobody:/:/sbin/nologin
`

const groups = `root:x:0:
bin:x:1:
daemon:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
mem:x:8:
kmem:x:9:
wheel:x:10:
mail:x:12:
shadow:x:42:
utmp:x:43:
video:x:44:
staff:x:50:
_ssh:x:110:
nogroup:x:65534:
`

// filesystem has the folders that packages put their files into.
func filesystem(merged bool) Own {
	o := Own{Name: "filesystem", Tags: "Requires(pre): setup\n", Files: map[string]string{}}
	dirs := []string{"boot", "dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "var", "var/lib", "var/lib/rpm", "var/log", "var/tmp", "var/cache"}
	tops := []string{"bin", "sbin", "lib"}
	if merged {
		for _, top := range append(tops, "lib64") {
			o.Files[top] = "-> usr/" + top
			o.List += "/" + top + "\n"
		}
		o.Files["var/run"] = "-> ../run"
		o.List += "/var/run\n"
	} else {
		dirs = append(dirs, tops...)
		dirs = append(dirs, "var/run", "var/lock/subsys")
	}
	for _, d := range dirs {
		o.Files[d+"/"] = ""
		mode := "0755"
		switch d {
		case "tmp", "var/tmp":
			mode = "1777"
		case "root":
			mode = "0550"
		}
		o.List += fmt.Sprintf("%%attr(%s,root,root) %%dir /%s\n", mode, d)
	}
	return o
}

// pam is the file that Debian's packages include for one purpose.
func pam(kind string) string { return kind + " required pam_permit.so\n" }

// oddities has what few packages have: capabilities of files, devices, and a %post that fails. They are in the repository, and no other
// package needs one.
var oddities = []Own{
	{
		Name: "oddities", Tags: "Requires: filesystem\n",
		Files: map[string]string{"usr/bin/raw": "#!/bin/sh\nexec cat \"$@\"\n", "usr/bin/bind": "#!/bin/sh\nexec cat \"$@\"\n", "usr/lib/oddities/": ""},
		List: "%caps(cap_net_raw=p) /usr/bin/raw\n%attr(0750,root,adm) %caps(cap_net_bind_service,cap_sys_time=ep) /usr/bin/bind\n%dir /usr/lib/oddities\n" +
			"%dev(c,1,3) %attr(0666,root,root) /usr/lib/oddities/null\n%dev(b,7,200) %attr(0640,root,disk) /usr/lib/oddities/loop\n",
	},
	{Name: "oddities-doc", Tags: "Requires: filesystem\n", Files: map[string]string{"usr/share/oddities/about": "odd\n"}, List: "%dir /usr/share/oddities\n/usr/share/oddities/about\n"},
	{Name: "oddities-never", Tags: "Requires: oddities-later\n"},
	{Name: "oddities-later", Tags: "Requires: oddities\n", Scripts: "%post\necho later > /var/lib/oddities-later\n", Files: map[string]string{"usr/share/oddities-later/about": "later\n"}, List: "/usr/share/oddities-later\n"},
	{Name: "oddities-failing", Tags: "Requires: filesystem\n", Scripts: "%post\necho it hurts\nexit 3\n"},
}

// comps is a file of one group of packages. conditional has packages that come along with others.
func comps(id, name, about string, mandatory, byDefault []string, conditional ...[2]string) string {
	var list strings.Builder
	for _, n := range mandatory {
		fmt.Fprintf(&list, "      <packagereq type=\"mandatory\">%s</packagereq>\n", n)
	}
	for _, n := range byDefault {
		fmt.Fprintf(&list, "      <packagereq type=\"default\">%s</packagereq>\n", n)
	}
	for _, c := range conditional {
		fmt.Fprintf(&list, "      <packagereq type=\"conditional\" requires=\"%s\">%s</packagereq>\n", c[1], c[0])
	}
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE comps PUBLIC "-//Red Hat, Inc.//DTD Comps info//EN" "comps.dtd">
<comps>
  <group>
    <id>%s</id>
    <name>%s</name>
    <description>%s</description>
    <default>true</default>
    <uservisible>true</uservisible>
    <packagelist>
%s    </packagelist>
  </group>
</comps>
`, id, name, about, list.String())
}
