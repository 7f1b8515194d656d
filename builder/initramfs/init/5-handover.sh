# ---- what the root is told, and leaving for it ----

# spare_card: keeps udev and every network manager of the root away from the card that / comes over. One moment without it,
# and nothing can be read any more that would bring it back. udev could not rename a card that is up (Linux 6.2 can).
spare_card() {
	mkdir -p /run/systemd/network /run/NetworkManager/conf.d
	printf '[Match]\nType=ether\nMACAddress=%s\n[Link]\nNamePolicy=keep\nAlternativeNamesPolicy=database onboard slot path\n' "$mac" >/run/systemd/network/00-netroot.link
	printf '[Match]\nName=%s\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n' "$card" >/run/systemd/network/00-netroot.network
	printf '[keyfile]\nunmanaged-devices=interface-name:%s\n' "$card" >/run/NetworkManager/conf.d/00-netroot.conf
}

# spare_ifcfg: the same for initscripts. "service network restart" takes down every card that has an ifcfg file, and ifup sets one
# up anew; ifcfg files of the card that / comes over are therefore put where nobody looks for them.
spare_ifcfg() {
	local file line device hwaddr
	for file in "$new"/etc/sysconfig/network-scripts/ifcfg-*; do
		[ -f "$file" ] || continue
		device=${file##*/ifcfg-} hwaddr=''
		while read -r line || [ -n "$line" ]; do
			line=${line%\"} line=${line%\'}
			case $line in
			DEVICE=*) line=${line#DEVICE=} line=${line#\"} device=${line#\'} ;;
			HWADDR=*) line=${line#HWADDR=} line=${line#\"} hwaddr=$(lower "${line#\'}") ;;
			esac
		done <"$file"
		[ "$device" = "$card" ] || [ "$hwaddr" = "$mac" ] || continue
		cat "$file" >"$keep/${file##*/}"
		if ! rm -f "$file" 2>/dev/null; then
			printf 'DEVICE=%s\nONBOOT=no\nNM_CONTROLLED=no\n' "$card" >"$keep/ifcfg"
			put "${file#"$new"}" "$keep/ifcfg"
		fi
		say "${file##*/} is put aside, in /run/netroot: / comes over $card"
	done
}

# name_network: HOSTNAME in /etc/sysconfig/network, which rc.sysinit takes rather than what it finds set
name_network() {
	local line
	[ -f "$new/etc/sysconfig/network" ] || return 0
	while read -r line || [ -n "$line" ]; do
		case $line in
		HOSTNAME=*) line=HOSTNAME=$hostname ;;
		esac
		printf '%s\n' "$line"
	done <"$new/etc/sysconfig/network" >"$keep/network"
	put /etc/sysconfig/network "$keep/network"
}

# name_hosts: the line of /etc/hosts with the machine's own name, which may be another than the image's. sudo wants to find it.
name_hosts() {
	local line word found=''
	[ -f "$new/etc/hosts" ] || return 0
	while read -r line || [ -n "$line" ]; do
		set -f
		for word in $line; do
			[ "$word" != "$hostname" ] || found=1
		done
		set +f
		case $line in
		127.0.1.1[!0-9.]*)
			word=${hostname%%.*}
			[ "$word" != "$hostname" ] || word=''
			line="127.0.1.1	$hostname${word:+ $word}"
			;;
		esac
		printf '%s\n' "$line"
	done <"$new/etc/hosts" >"$keep/hosts"
	[ -n "$found" ] || put /etc/hosts "$keep/hosts"
}

# hand_over: what the root must know of its network. Values hold nothing but what plain in dhcp.sh lets through and
# what was checked here.
hand_over() {
	local one
	{
		echo "IMAGE='$image'"
		echo "GENERATION='$generation'"
		echo "SERVER='$server'"
		echo "IFACE='$card'"
		echo "MAC='$mac'"
		echo "ADDRESS='$address'"
		echo "PREFIX='$prefix'"
		echo "GATEWAY='$gateway'"
		echo "DNS='$dns'"
		echo "DOMAIN='$domain'"
		echo "HOSTNAME='$hostname'"
	} >"$keep/boot"
	{
		[ -z "$domain" ] || echo "search $domain"
		for one in $dns; do
			echo "nameserver $one"
		done
	} >"$keep/resolv.conf"
	spare_card
	spare_ifcfg
	if [ -n "$hostname" ]; then
		echo "$hostname" >/proc/sys/kernel/hostname
		echo "$hostname" >"$keep/hostname"
		put /etc/hostname "$keep/hostname"
		name_hosts
		name_network
	fi
	# shellcheck disable=SC2012 # the target of one link; readlink is not in the initramfs
	one=''
	[ ! -L "$new/etc/resolv.conf" ] || one=$(ls -l "$new/etc/resolv.conf" 2>/dev/null)
	case $one in
	*/systemd/resolve/*)
		mkdir -p /run/systemd/resolved.conf.d
		printf '[Resolve]\nDNS=%s\nDomains=%s\n' "$dns" "$domain" >/run/systemd/resolved.conf.d/netroot.conf
		;;
	*) [ -z "$dns$domain" ] || put /etc/resolv.conf "$keep/resolv.conf" ;;
	esac
}

# start_shell: a root shell on a serial line for whoever tests the machine, alive for as long as the machine is. Behind
# a pipe it does not take itself for interactive: such a shell ignores SIGTERM, and shutdown would wait for it.
start_shell() {
	[ -n "$tty" ] || return 0
	if [ ! -c "/dev/$tty" ]; then
		say "netroot.shell=$tty: there is no /dev/$tty"
		return 0
	fi
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
		setsid chroot "$new" /bin/sh -c '/bin/sh 2>&1 | /bin/cat' <"/dev/$tty" >"/dev/$tty" 2>&1 &
}

# leave ARGUMENTS: becomes the root's init. Its arguments are the words that the kernel did not know ("single", "3").
leave() {
	local prog one
	for prog in $init /sbin/init /etc/init /bin/init; do
		# A link may be absolute, which means something else here than there.
		if [ ! -e "$new$prog" ] && [ ! -L "$new$prog" ]; then
			[ "$prog" != "$init" ] || say "init=$init: the root has no such program, trying /sbin/init"
			continue
		fi
		stop_dhcp
		start_shell
		stage switch-root
		rm -f /run/mount.log /run/dhcp.log
		for one in dev sys run proc; do # proc last: mount reads it
			if [ -d "$new/$one" ] && [ ! -L "$new/$one" ]; then
				mount --move "/$one" "$new/$one"
			elif [ "$one" != run ]; then
				give_up "the root has no folder /$one" "a complete root has /dev /proc /sys: look at the image"
			fi
			# Systems older than /run (EL6) keep what was handed over nowhere yet.
		done
		# shellcheck disable=SC2093 # only a failed exec comes back
		exec switch_root "$new" "$prog" "$@" </dev/console >/dev/console 2>&1
		break
	done
	give_up "the root has no init: ${init:-/sbin/init}" "add systemd-sysv (Debian) or its like to the packages, or set init="
}
