# ---- the way ----

main() {
	export PATH=/usr/sbin:/usr/bin:/sbin:/bin
	export HOME=/ TERM="${TERM:-linux}"
	umask 022
	init_defaults
	mount -t proc -o nosuid,noexec,nodev proc /proc
	mount -t sysfs -o nosuid,noexec,nodev sysfs /sys
	mount -t devtmpfs -o mode=0755,nosuid dev /dev
	mount -t tmpfs -o mode=0755,nosuid,nodev run /run
	exec </dev/console >/dev/console 2>&1
	mkdir -p "$keep"
	# A kernel begins to gather randomness only when somebody asks for some (try_to_generate_entropy in
	# drivers/char/random.c), and a DHCP client that asks waits for a second. This gathers it while the link comes up.
	{ read -r line; } </dev/urandom &
	local line
	read -r line </proc/cmdline
	parse_cmdline "$line"
	echo # what the firmware or the kernel wrote last may have no end of line
	[ -z "$debug" ] || set -x
	at cmdline
	parse_root || give_up "$error" "$advice"
	parse_ip || give_up "$error" "$advice"
	parse_image
	stage initramfs
	at initqueue
	start_network
	stage network
	at pre-mount
	wait
	mount_nfs
	stage nfs-root
	at mount
	mount_overlay
	hand_over
	at pre-pivot
	at cleanup
	leave "$@"
}

case ${0##*/} in
init) main "$@" ;;
esac
