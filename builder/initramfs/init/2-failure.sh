# ---- failure ----

# give_up WHAT WHAT-TO-DO
give_up() {
	say "cannot go on: $1"
	say "what to do: $2"
	[ $$ = 1 ] || exit 1 # whoever tries these functions on a machine that runs does not want it rebooted
	if [ -n "$shell" ]; then
		rescue "rd.shell"
	elif [ "$reboot" = 0 ]; then
		say "waiting for ever (rd.reboot=0)"
		while :; do sleep 3600; done
	else
		say "rebooting in $reboot seconds (rd.reboot=SECONDS; rd.shell on the kernel command line gives a shell instead)"
		sleep "$reboot"
	fi
	say "rebooting"
	echo b >/proc/sysrq-trigger
	sleep 10
	exit 1 # the kernel panics: panic=SECONDS reboots
}

rescue() {
	say "shell because of $1; leave it with exit"
	PS1='initramfs# ' setsid sh -i </dev/console >/dev/console 2>&1
}

# at STAGE: the place of rd.break=STAGE
at() {
	[ "$break" != "$1" ] || rescue "rd.break=$1"
}

# stage NAME: says on the console how far it is, and to the server with a LOOKUP of a name that is never there.
stage() {
	local up rest one
	say "image=$image generation=$generation stage=$1"
	read -r up rest </proc/uptime
	told="$told .netroot.stage=$1,up=$up"
	[ -n "$lower" ] || return 0
	for one in $told; do
		[ ! -e "$lower/$one" ] || say "the server has a file $one?"
	done
	told=''
}
