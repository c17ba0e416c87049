"""What runs inside the emulated host besides our init: shell scripts for its busybox.

``SETUP`` runs once, before the channels open. ``VIEW`` makes the root directory a command sees.
One view belongs to one channel and is made anew after every command:

- an overlay whose lower layer is the whole file system of the host below, through a 9p mount
  of this view's own, so nothing is older than the command; what is written goes to a tmpfs;
- over it, at the places in ``environment.places``, overlays of one 9p mount that all
  views share and that stays. There the interpreter and its packages are: they are in
  this kernel's page cache, and QEMU's translation of their code is kept with the pages.

``FOREIGN_VIEW`` is for a host whose processor cannot run this machine's programs: its root is a small
system of its own (``system.py``), with this machine's other directories in their places, and its Python
where ours is.

9p's virtio transport serves one mount a device, so there is a device for each view.
"""

from __future__ import annotations

#: Commands that can run at the same time on one machine.
CHANNELS = 8
#: The channel without a view, over which the keeper asks whether the host still answers.
PULSE = CHANNELS
#: All of them.
PORTS = PULSE + 1
#: The name of channel N is this and N, as a virtio port and (with the N) as a 9p tag's.
PORT = "pyvmm."

#: In load order (dependencies come by themselves); before ``SETUP``.
EARLY_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
#: Loaded when the kernel first asks for the alias: a device is opened, a link is made.
LAZY_MODULES = {
    "char-major-10-200": "tun",
    "char-major-10-238": "vhost_net",
    "char-major-10-241": "vhost_vsock",
    "net-pf-40": "vsock",
    "rtnl-link-bridge": "bridge",
    "rtnl-link-tun": "tun",
    "rtnl-link-veth": "veth",
}

SETUP = """\
(
    while read -r module; do insmod "$module" || break; done </etc/pyvmm/kvm
    chmod 666 /dev/kvm
    : >/run/kvm-tried
) &
for helper in /etc/pyvmm/helpers/*; do
    [ -x "$helper" ] && "$helper" &
done
echo /etc/pyvmm/modprobe >/proc/sys/kernel/modprobe
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mkdir -p /base /dev/net
mknod -m 666 /dev/net/tun c 10 200
mknod -m 666 /dev/vhost-net c 10 238
mknod -m 666 /dev/vhost-vsock c 10 241
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,noxattr base /base || exit 1
"""

_RENEW = """\
number=$1
shift
view=/view/$number fresh=/fresh/$number layers=/layers/$number
if [ -d "$view/proc" ]; then
    # busybox's ls: "... /proc/PID/root -> /view/N"
    ls -l /proc/[0-9]*/root 2>/dev/null | grep -E -- "-> $view(/|\\$)" |
        sed "s,.*/proc/\\([0-9]*\\)/root.*,\\1," | xargs -r kill -9
    umount -l "$view"
    tries=0
    until umount "$fresh" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || exit 1
        sleep 0.02
    done
    umount -l "$layers"
fi
"""

# Arguments: the view's number, then for each directory that is shared its path, and for each
# directory that the host may write to "rw", its tag and its path.
VIEW = (
    _RENEW
    + """\
set -e
mkdir -p "$view" "$fresh" "$layers"
mount -t tmpfs -o mode=0755 layers "$layers"
upper=$layers/u work=$layers/w
mkdir "$upper" "$work" $(n=0; for place; do n=$((n + 1)); echo "$upper$n $work$n"; done)
mount -t 9p -o "ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,noxattr" "fresh$number" "$fresh"
mount -t overlay -o "lowerdir=$fresh,upperdir=$upper,workdir=$work" root "$view"
while [ $# -gt 0 ]; do
    if [ "$1" = rw ]; then
        if [ ! -d "/rw/$2" ]; then
            mkdir -p "/rw/$2"
            mount -t 9p -o "rw,trans=virtio,version=9p2000.L,msize=512000,cache=mmap" "$2" "/rw/$2"
        fi
        mount -o bind "/rw/$2" "$view$3"
        shift 3
        continue
    fi
    if [ -d "/base$1" ] && [ -d "$view$1" ]; then
        mount -t overlay -o "lowerdir=/base$1,upperdir=$upper$#,workdir=$work$#" shared "$view$1"
    fi
    shift
done
mkdir -p "$view/dev" "$view/proc" "$view/sys"
for place in dev proc sys; do
    mount -o rbind "/$place" "$view/$place"
done
until [ -e /run/kvm-tried ]; do sleep 0.02; done
"""
)

# Arguments: the view's number, then for each directory of this machine's root that is to be seen "top" and
# its path, for each directory that is shared its path, for the interpreter's prefix "python" and the path,
# and for each directory that the host may write to "rw", its tag and its path.
FOREIGN_VIEW = (
    _RENEW
    + """\
set -e
mkdir -p "$view" "$fresh" "$layers" /system
mount -t tmpfs -o mode=0755 layers "$layers"
[ -d /system/usr ] ||
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,noxattr system /system
mount -t 9p -o "ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,noxattr" "fresh$number" "$fresh"
mkdir "$layers/u" "$layers/w"
mount -t overlay -o "lowerdir=/system,upperdir=$layers/u,workdir=$layers/w" root "$view"
while [ $# -gt 0 ]; do
    if [ "$1" = rw ]; then
        if [ ! -d "/rw/$2" ]; then
            mkdir -p "/rw/$2"
            mount -t 9p -o "rw,trans=virtio,version=9p2000.L,msize=512000,cache=mmap" "$2" "/rw/$2"
        fi
        mkdir -p "$view$3"
        mount -o bind "/rw/$2" "$view$3"
        shift 3
        continue
    fi
    what=shared below=/base$1 place=$1
    case $1 in
    top) what=top below=$fresh$2 place=$2 && shift ;;
    python)
        for name in python python3 python3.11; do ln -sf /usr/bin/python3.11 "$view$2/bin/$name"; done
        printf 'home = /usr/bin\\ninclude-system-site-packages = false\\n' >"$view$2/pyvenv.cfg"
        shift 2
        continue
        ;;
    esac
    mkdir -p "$view$place" "$layers/u$#" "$layers/w$#"
    mount -t overlay -o "lowerdir=$below,upperdir=$layers/u$#,workdir=$layers/w$#" "$what" "$view$place"
    shift
done
for place in dev proc sys; do
    mount -o rbind "/$place" "$view/$place"
done
until [ -e /run/kvm-tried ]; do sleep 0.02; done
"""
)
