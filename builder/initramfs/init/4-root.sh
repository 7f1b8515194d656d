# ---- the root ----

# try_mount: mounts once, at most for half a minute. The reason of a failure is in /run/mount.log.
try_mount() {
	local end pid
	end=$(($(uptime) + 30))
	mount -i -t nfs -o "$(nfs_options)" "$server:$path" "$lower" >/run/mount.log 2>&1 &
	pid=$!
	while [ -e "/proc/$pid/exe" ]; do # a process that has ended has none
		if [ "$(uptime)" -ge "$end" ]; then
			kill -9 "$pid"
			wait "$pid"
			echo "no answer in 30 seconds" >/run/mount.log
			return 1
		fi
		sleep 0.1
	done
	wait "$pid"
}

# explain_mount: error and advice for what mount or the kernel said. Fails when another try is of no use.
explain_mount() {
	local said='' line where="$server:$path" port=2049 rc=0
	while read -r line; do
		case $line in
		'' | "dmesg(1) may"*) ;;
		*) said="$said${said:+; }$line" ;;
		esac
	done </run/mount.log
	case ,$options in
	*,port=*)
		port=${options#*port=}
		port=${port%%,*}
		;;
	esac
	case $said in
	*"does not exist"* | *"No such file"*)
		error="server $server has no export $path"
		advice="is the image there? netroot images on the server lists them"
		;;
	*denied* | *ermission* | *"not permitted"* | *" read-only."*) # util-linux words EACCES so for a read-only mount
		error="server $server refused the mount of $path"
		advice="is the image there, and may this machine ($address) have it? netroot images on the server lists them; so does its log"
		;;
	*efused*)
		error="server $server is up, but nothing answers on its NFS port $port"
		advice="is netroot serve running there? a firewall may also refuse"
		;;
	*oute* | *unreachable*)
		error="server $server cannot be reached from $address/$prefix, gateway ${gateway:-none}"
		advice="is the server's address on the kernel command line the one on this network?"
		;;
	*"no answer"* | *"imed out"*)
		error="server $server does not answer on its NFS port $port"
		advice="is the server up? does a firewall drop what goes to TCP port $port?"
		;;
	*"unknown filesystem"* | *"No such device"*)
		error="the kernel has no NFS client for $where"
		advice="the modules in this initramfs do not fit the kernel that runs: serve kernel and initramfs of one generation"
		rc=1
		;;
	*"wrong fs type"* | *"bad option"* | *nvalid*)
		error="the kernel does not take the options $(nfs_options)"
		advice="check the options behind the path in root="
		rc=1
		;;
	*)
		error="$where cannot be mounted"
		advice="see the message above"
		;;
	esac
	say "$error (${said:-mount said nothing})"
	return $rc
}

mount_nfs() {
	local end pause=1 try=1 final=" (rd.retry=SECONDS tries longer)"
	is_ipv4 "$server" || give_up "root= names ${server:-no server}${server:+, which is no IPv4 address}" "write root=nfs:ADDRESS:/IMAGE: names are not resolved this early"
	case $path in
	*%s*) path=${path%%%s*}${hostname:-$address}${path#*%s} ;;
	esac
	lower=$new
	if [ -n "$overlay" ]; then
		overlay_options >/dev/null || give_up "rd.overlay=$overlay is not understood" "use rd.overlay, rd.overlay=tmpfs:size=50% or rd.overlay=bind:size=50%"
	fi
	case $overlay in
	tmpfs*)
		lower=$keep/ro
		mkdir -p "$lower"
		;;
	esac
	end=$(($(uptime) + retry))
	until try_mount; do
		explain_mount || final=''
		if [ -z "$final" ] || [ "$(uptime)" -ge "$end" ]; then
			give_up "$error (tries: $try)" "$advice$final"
		fi
		say "trying again in $pause seconds"
		sleep "$pause"
		try=$((try + 1))
		pause=$((pause < 8 ? pause * 2 : 10))
	done
	if [ ! -d "$lower/proc" ] || [ ! -d "$lower/dev" ]; then
		give_up "$server:$path has no /proc or no /dev: not the root of an operating system" "check the path in root=; netroot images on the server lists what there is"
	fi
}

mount_overlay() {
	[ -n "$overlay" ] || return 0
	mkdir -p "$keep/rw"
	mount -t tmpfs -o "$(overlay_options)" netroot "$keep/rw" || give_up "no memory file system for the changes: $(overlay_options)" "check the size in rd.overlay="
	case $overlay in
	bind*)
		copy_folders
		return
		;;
	esac
	mkdir "$keep/rw/upper" "$keep/rw/work"
	mount -t overlay -o "lowerdir=$lower,upperdir=$keep/rw/upper,workdir=$keep/rw/work" netroot "$new" || give_up "this kernel cannot put an overlay over NFS" "use rd.overlay=bind (writable: bind in the recipe), or leave rd.overlay out: the root is then read-only"
}

# copy_folders: what a kernel without overlayfs can do (2.6.32 of EL6): copies of some folders in memory are put over those of the
# root. Which ones the root says itself; for one that does not, those that programs write to.
copy_folders() {
	local folder list="$new/usr/lib/netroot/folders"
	if [ ! -r "$list" ]; then
		list=$keep/folders
		printf '%s\n' /etc /var /root /tmp /home >"$list"
	fi
	while read -r folder; do
		case $folder in
		/?*) copy_folder "$folder" ;;
		esac
	done <"$list"
	rm -f /run/cp.log
}

# copy_folder FOLDER. A link is left alone: an absolute one means something else here than in the root.
copy_folder() {
	local line said='' lost=0 copy="$keep/rw$1" size
	size=$(overlay_options)
	if [ -L "$new$1" ] || [ ! -d "$new$1" ]; then
		say "nothing can be written to $1: it is no folder of the root"
		return 0
	fi
	mkdir -p "${copy%/*}"
	if ! cp -a "$new$1" "$copy" >/run/cp.log 2>&1; then
		while read -r line; do
			case $line in
			*"o space left"*) give_up "$1 of the root does not fit into the memory for changes (${size#*size=} of $(memory))" \
				"allow more with size: below root: in the recipe (rd.overlay=bind:size=80% on the kernel command line), take $1 out of folders:, or make it smaller in the image" ;;
			esac
			said=${said:-$line}
			lost=$((lost + 1))
		done </run/cp.log
		say "of $1 could not all be copied ($lost messages): $said"
	fi
	mount --bind "$copy" "$new$1" || give_up "the copy of $1 cannot be put over the root's" "leave rd.overlay=bind out: the root is then read-only"
}

# memory: how much the machine has
memory() {
	local key value
	while read -r key value; do
		case $key in
		MemTotal:) echo "$((${value%% *} / 1024)) MB" ;;
		esac
	done </proc/meminfo
}

# put FILE COPY: replaces a file of the root by one of /run/netroot. A read-only root gets it bound over the file it has.
put() {
	if { rm -f "$new$1" && cat "$2" >"$new$1"; } 2>/dev/null; then
		return 0
	fi
	[ -f "$new$1" ] && [ ! -L "$new$1" ] && mount --bind "$2" "$new$1" && return 0
	say "$1 of the root cannot be written; what belongs there is in $2"
}
