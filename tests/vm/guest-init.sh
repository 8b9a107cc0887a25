#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The guest's first process, or a service of systemd: brings up what the tests need, then serves commands on a
# virtio-serial port.
#
# A request is one line:    run ID BASE64-OF-A-SHELL-SCRIPT    or    kill ID
# A reply is    ID STATUS SIZE    on a line and then SIZE bytes, the script's output (standard error included).
# Scripts run side by side, each in a session of its own; replies come in the order in which they end. Kernel messages
# go to the serial console, so that nothing but replies is ever seen on this port.
export PATH=/usr/bin:/usr/local/bin HOME=/tmp

if [ $$ = 1 ]; then
	mount -t devtmpfs dev /dev
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t tmpfs tmpfs /run
	mount -t tmpfs tmpfs /tmp
fi
dmesg -n 8

modprobe virtio_net
modprobe virtio_blk
modprobe nvme_tcp
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

# One identity for the whole run: `nvme connect` invents a new one each time where these are missing.
echo nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-706f6c6c7578 >/etc/nvme/hostnqn
echo 00000000-0000-4000-8000-706f6c6c7578 >/etc/nvme/hostid

for port in /sys/class/virtio-ports/*; do
	[ "$(cat "$port/name")" = pollux.agent ] && exec 3<>"/dev/${port##*/}"
done

run_job() {
	job=/run/job/$1
	echo "$2" | base64 -d >"$job.sh"
	setsid /bin/sh "$job.sh" >"$job.out" 2>&1 3>&- </dev/null &
	echo $! >"$job.pid"
	wait $!
	status=$?
	size=$(stat -c %s "$job.out")
	# A process left behind may still add to the output: only the announced size is sent.
	flock /run/job/lock sh -c "echo $1 $status $size; head -c $size $job.out" >&3
	rm -f "$job.sh" "$job.out" "$job.pid"
}

mkdir /run/job
echo 0 0 0 >&3  # job 0 is the boot
while read -r verb id script <&3; do
	case $verb in
	run) run_job "$id" "$script" & ;;
	kill) kill -9 -"$(cat /run/job/"$id".pid)" ;;
	esac
done

# End of file: whoever started this machine is gone.
poweroff -f
