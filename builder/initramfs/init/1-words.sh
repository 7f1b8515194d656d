#!/bin/sh
# The first program of a machine without a disk: find the network card, get an address, mount the root over NFS (under a
# writable overlay in memory when asked to) and start its init. All it runs besides itself comes from that same root.
#
# The kernel command line it understands is dracut's where dracut has a word for it:
#   root=nfs:[SERVER:]/PATH[:OPTIONS]   root=[SERVER:]/PATH[,OPTIONS]   root=/dev/nfs nfsroot=[SERVER:]/PATH[,OPTIONS]
#   ip=dhcp   ip=CARD:dhcp   ip=CLIENT:[PEER]:GATEWAY:MASK:[HOST]:[CARD]:none[:DNS1[:DNS2]]
#   BOOTIF=01-MAC   bootdev=CARD   ifname=CARD:MAC   nameserver=ADDRESS   ro rw init=PROGRAM
#   rd.overlay[=tmpfs:size=50%|=bind:size=50%]   rd.break[=STAGE]   rd.shell   rd.debug   rd.retry=SECONDS   rd.peerdns=0
#   rd.net.timeout.iflink= rd.net.timeout.carrier= rd.net.timeout.dhcp=SECONDS   rd.net.dhcp.retry=N
# and its own:
#   rd.reboot=SECONDS (0: never)   netroot.image=IMAGE@GENERATION   netroot.hostname=NAME   netroot.shell=TTY
#
# What a command line leaves out is in init_defaults. Sourced under another name it only defines its functions. It is kept in
# parts, which are one file in the initramfs: words, failure, network, root, handover, main.
# shellcheck disable=SC3043 # every sh of a distribution (dash, bash, busybox) has local

new=/sysroot       # becomes /
keep=/run/netroot  # handed over to the root
lower=             # where NFS is mounted, once it is

init_defaults() {
	root='' nfsroot='' server='' path='' options='' rw=ro init='' ips='' method='' card='' bootif='' bootdev='' ifnames=''
	address='' peer='' gateway='' mask='' hostname='' nameservers='' peerdns=1
	overlay='' break='' shell='' debug='' retry=90 reboot=30 image='' generation='' netroot_image='' netroot_hostname='' tty=''
	wait_card=30 wait_carrier=30 wait_dhcp='' dhcp_tries=5
	dhcp_address='' dhcp_mask='' dhcp_gateway='' dhcp_dns='' dhcp_domain='' dhcp_hostname='' dhcp_server=''
	prefix='' mac='' dns='' domain=''
	told='' seen='' error='' advice=''
}

say() { printf 'netroot: %s\n' "$*"; }

# seconds since the kernel started
uptime() {
	local up rest
	read -r up rest </proc/uptime
	echo "${up%%.*}"
}

# ---- the command line ----

# parse_cmdline WORDS: sets the variables of init_defaults. Of words that count once the last one wins.
parse_cmdline() {
	local word value
	set -f
	# shellcheck disable=SC2086 # words is what they are
	set -- $1
	set +f
	for word; do
		value=${word#*=}
		value=${value#\"}
		value=${value%\"}
		case $word in
		root=*) root=$value ;;
		nfsroot=*) nfsroot=$value ;;
		ip=*) ips="$ips $value" ;;
		BOOTIF=*) bootif=$(mac_of_bootif "$value") ;;
		bootdev=*) bootdev=$value ;;
		ifname=*) ifnames="$ifnames $value" ;;
		nameserver=*) nameservers="$nameservers $value" ;;
		ro | rw) rw=$word ;;
		init=*) init=$value ;;
		rd.overlay | rd.overlay=1 | rd.overlay=yes) overlay=tmpfs ;;
		rd.overlay=0 | rd.overlay=no) overlay='' ;;
		rd.overlay=*) overlay=$value ;;
		rd.break) break=pre-pivot ;;
		rd.break=*) break=$value ;;
		rd.shell | rd.shell=1) shell=1 ;;
		rd.shell=0) shell='' ;;
		rd.debug | rd.debug=1) debug=1 ;;
		rd.peerdns=0 | rd.peerdns=no) peerdns='' ;;
		rd.retry=*) retry=$(number "$word" "$value" "$retry") ;;
		rd.reboot=*) reboot=$(number "$word" "$value" "$reboot") ;;
		rd.net.timeout.iflink=*) wait_card=$(number "$word" "$value" "$wait_card") ;;
		rd.net.timeout.carrier=*) wait_carrier=$(number "$word" "$value" "$wait_carrier") ;;
		rd.net.timeout.dhcp=*) wait_dhcp=$(number "$word" "$value" "$wait_dhcp") ;;
		rd.net.dhcp.retry=*) dhcp_tries=$(number "$word" "$value" "$dhcp_tries") ;;
		netroot.image=*) netroot_image=$value ;;
		netroot.hostname=*) netroot_hostname=$value ;;
		netroot.shell=*) tty=${value#/dev/} ;;
		esac
	done
}

# number WORD VALUE DEFAULT
number() {
	case $2 in
	'' | *[!0-9]*) say "$1: not a number of seconds or tries, taking ${3:-the default}" >&2 && echo "$3" ;;
	*) echo "$2" ;;
	esac
}

# mac_of_bootif 01-AA-bb-…: the address as the kernel writes it. The first byte is the hardware type (RFC 1700).
mac_of_bootif() {
	local rest="$1" mac='' pair
	case $rest in
	??-??-??-??-??-??-??) rest=${rest#??-} ;;
	esac
	while [ -n "$rest" ]; do
		pair=${rest%%[-:]*}
		mac=$mac${mac:+:}$(lower "$pair")
		case $rest in
		*[-:]*) rest=${rest#*[-:]} ;;
		*) rest='' ;;
		esac
	done
	echo "$mac"
}

lower() {
	local out="$1" pair from
	for pair in Aa Bb Cc Dd Ee Ff; do
		from=${pair%?}
		while :; do
			case $out in
			*"$from"*) out=${out%%"$from"*}${pair#?}${out#*"$from"} ;;
			*) break ;;
			esac
		done
	done
	echo "$out"
}

# parse_root: server, path and options out of root= and nfsroot=. Fails with error and advice set.
parse_root() {
	local value="$root"
	case $value in
	/dev/nfs | nfs | /dev/nfs:*) value=$nfsroot ;;
	esac
	case $value in
	'')
		error="the kernel command line has no root=${root:+$root nfsroot=}"
		advice="add root=nfs:SERVER:/IMAGE to it"
		return 1
		;;
	nfs://*)
		value=${value#nfs://}
		server=${value%%/*}
		path=/${value#*/}
		case $server in
		*:*) options=port=${server#*:} server=${server%%:*} ;;
		esac
		return
		;;
	nfs4:*)
		options=vers=4
		value=${value#nfs4:}
		;;
	nfs:*) value=${value#nfs:} ;;
	*=* | /dev/* | live:* | block:* | dhcp)
		case $value in
		*:/*) ;;
		*)
			error="root=$value is not an NFS root"
			advice="this initramfs mounts its root over NFS only: root=nfs:SERVER:/IMAGE"
			return 1
			;;
		esac
		;;
	esac
	case $value in
	/*) ;;
	*:/*)
		server=${value%%:/*}
		value=${value#"$server":}
		;;
	*)
		error="root=$root names no path"
		advice="write root=nfs:SERVER:/IMAGE"
		return 1
		;;
	esac
	path=${value%%[:,]*}
	value=${value#"$path"}
	[ -z "$value" ] || options=$options${options:+,}${value#?}
}

# parse_ip: method (dhcp or static), card and the rest out of the ip= words. Without any: dhcp on whatever card works.
parse_ip() {
	local word chosen=''
	method=dhcp
	# The last one counts: what a machine's own entry says comes behind ip=dhcp. Unless one is for the boot card.
	# shellcheck disable=SC2086
	for word in $ips; do
		case ":$chosen:" in
		*":${bootdev:-no card has this name}:"*) ;;
		*) chosen=$word ;;
		esac
	done
	card=$bootdev
	case $chosen in
	'' | dhcp | on | any | single-dhcp) return ;;
	off | none | dhcp6 | auto6 | either6 | link6 | ibft | auto | bootp | rarp)
		error="ip=$chosen does not give this machine an IPv4 address"
		advice="use ip=dhcp, or ip=CLIENT::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	*[!0-9.]*) ;;
	*)
		error="ip=$chosen has no netmask"
		advice="write ip=$chosen::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	esac
	case $chosen in
	[0-9]*.*.*.*:* | :*) ;;
	*:dhcp | *:on | *:any | *:dhcp:* | *:on:* | *:any:*) # CARD:dhcp[:MTU[:MAC]]
		card=${chosen%%:*}
		return
		;;
	*)
		error="ip=$chosen: not understood"
		advice="use ip=dhcp, ip=CARD:dhcp, or ip=CLIENT::GATEWAY:MASK:HOST:CARD:none"
		return 1
		;;
	esac
	parse_tuple "$chosen"
}

# parse_tuple CLIENT:PEER:GATEWAY:MASK:HOST:CARD:METHOD[:DNS1[:DNS2]], or [:MTU[:MAC]] at the end, which is ignored
parse_tuple() {
	local old="$IFS" how
	IFS=:
	set -f
	# shellcheck disable=SC2086
	set -- $1
	set +f
	IFS=$old
	address=${1-} peer=${2-} gateway=${3-} mask=${4-} hostname=${5-}
	card=${6:-$card} how=${7-}
	case $how in
	dhcp | on | any)
		address='' gateway='' mask=''
		return
		;;
	esac
	method=static
	if ! prefix=$(prefix_of "$mask") || [ -z "$address" ]; then
		error="ip=: the address '$address' with the netmask '$mask' is not complete"
		advice="write ip=CLIENT::GATEWAY:255.255.255.0:HOST:CARD:none"
		return 1
	fi
	case ${8-} in
	*.*.*.*) nameservers="$nameservers $8" ;;
	esac
	case ${9-} in
	*.*.*.*) nameservers="$nameservers $9" ;;
	esac
}

# prefix_of 255.255.255.0 or 24: 24
prefix_of() {
	local n=0 octet end='' old="$IFS"
	case $1 in
	'' | *[!0-9.]*) return 1 ;;
	*.*.*.*) ;;
	*)
		[ "${1%%.*}" = "$1" ] && [ "$1" -le 32 ] && echo "$1"
		return
		;;
	esac
	IFS=.
	for octet in $1; do
		[ -z "$end" ] || [ "$octet" = 0 ] || return 1
		case $octet in
		255) n=$((n + 8)) ;;
		254) n=$((n + 7)) end=1 ;;
		252) n=$((n + 6)) end=1 ;;
		248) n=$((n + 5)) end=1 ;;
		240) n=$((n + 4)) end=1 ;;
		224) n=$((n + 3)) end=1 ;;
		192) n=$((n + 2)) end=1 ;;
		128) n=$((n + 1)) end=1 ;;
		0) end=1 ;;
		*) return 1 ;;
		esac
	done
	IFS=$old
	echo "$n"
}

# nfs_options: what mount(2) gets. The kernel speaks the MOUNT protocol itself when it is told the address, so no
# mount.nfs is needed. What the command line says stands; version 3 over TCP without lockd is what is added.
nfs_options() {
	local out="$options"
	case ,$out, in
	*,vers=* | *,nfsvers=* | *,v[234]*) ;;
	*) out=$out${out:+,}vers=3 ;;
	esac
	case ,$out, in
	*,proto=* | *,tcp,* | *,udp,*) ;;
	*) out=$out,proto=tcp ;;
	esac
	case ,$out, in
	*,nolock,* | *,lock,*) ;;
	*) out=$out,nolock ;;
	esac
	case $overlay in
	'') out=$rw,$out ;;
	*) out=ro,$out ;;
	esac
	echo "$out,addr=$server"
}

# overlay_options: for the tmpfs that takes the changes
overlay_options() {
	case $overlay in
	tmpfs | bind) echo mode=0755,size=50% ;;
	tmpfs:* | bind:*) echo "mode=0755,${overlay#*:}" ;;
	*) return 1 ;;
	esac
}

# parse_image: image and generation, for whoever reads the console
parse_image() {
	local name="${netroot_image:-${path##*/}}"
	case $name in
	*@*) image=${name%@*} generation=${name##*@} ;;
	*) image=$name generation=- ;;
	esac
}

is_hostname() {
	case $1 in
	'' | -* | .* | *[!A-Za-z0-9.-]*) return 1 ;;
	esac
}

is_ipv4() {
	case $1 in
	*[!0-9.]* | *.*.*.*.* | *..* | .* | *.) return 1 ;;
	*.*.*.*) ;;
	*) return 1 ;;
	esac
}
