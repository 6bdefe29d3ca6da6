#!/bin/sh
# Measures a round's exchange over shaped links and prints docs/network.json. Needs root, iproute2, /dev/net/tun, 8 GB of memory, and
#     cargo build --release -p checkpoints --example link
# The kernel needs no netem: the link is a process between two TUN devices, each in a namespace of its own.
#     scripts/link-bench.sh DIR > docs/network.json
set -eu
dir=${1:?a folder for the run, kept for the next time}
link=${LINK:-target/release/examples/link}
rtt=50 loss=0.005
# of a 72B run: a payload up, and a tenth of each of 20 payloads down
bulk_up=${BULK_UP:-1360000000} bulk_down=${BULK_DOWN:-136000000}
allowed=/proc/sys/net/ipv4/tcp_allowed_congestion_control
before=$(cat $allowed)
server='' wire=''

clean() {
    for process in $server $wire; do
        kill "$process" 2>/dev/null && wait "$process" 2>/dev/null || true
    done
    server='' wire=''
    ip netns del trb-peer 2>/dev/null || true
    ip netns del trb-store 2>/dev/null || true
}
stop() {
    clean
    echo "$before" > $allowed
}
trap stop EXIT
trap 'exit 1' INT TERM
# a namespace may only choose what this list has
echo "$before cubic bbr" > $allowed || echo "cubic or bbr is missing in this kernel" >&2

# up and down in Mbit/s, how TCP avoids congestion: a peer, a store, and the link between them
up() {
    clean
    # with other work on the machine, packets would be late without this
    chrt --fifo 10 "$link" wire trb-p trb-s "$1" "$2" $rtt $loss 1 > "$dir/wire.log" &
    wire=$!
    until grep -q ready "$dir/wire.log"; do sleep 0.1; done
    for end in 'peer trb-p 10.77.0.2 10.77.0.1' 'store trb-s 10.77.0.1 10.77.0.2'; do
        set -- "$1" "$2" "$3" $end
        ip netns add "trb-$4"
        ip link set "$5" netns "trb-$4"
        ip -n "trb-$4" addr add "$6" peer "$7" dev "$5"
        ip -n "trb-$4" link set "$5" up txqueuelen 5000
        ip netns exec "trb-$4" sh -c "echo $3 > /proc/sys/net/ipv4/tcp_congestion_control"
    done
    ip netns exec trb-store "$link" serve "$dir" 10.77.0.1:9000 > "$dir/serve.log" 2>&1 &
    server=$!
    until grep -q 9000 "$dir/serve.log"; do sleep 0.1; done
}

# up, down, congestion, connections, and what to run of `link`
measure() {
    up "$1" "$2" "$3"
    printf '%s Mbit/s up, %s down, %s, %s connections: %s\n' "$1" "$2" "$3" "$4" "$5" >&2
    case="\"up\":$1,\"down\":$2,\"rtt_ms\":$rtt,\"loss\":$loss,\"congestion\":\"$3\",\"connections\":$4,\"what\":\"$5\""
    what=$5 connections=$4
    shift 5
    timeline=$(ip netns exec trb-peer env $(cat "$dir/peer.env") "$link" "$what" "$dir" "$connections" "$@")
    printf '{%s,"timeline":%s}\n' "$case" "$timeline"
}

cases() {
    for rates in '110 500' '1000 1000'; do
        for connections in 8 32 64 128; do
            measure $rates cubic $connections round
        done
        measure $rates bbr 32 round
        for connections in 32 128; do
            measure $rates cubic $connections bulk "$bulk_up" "$bulk_down"
        done
        measure $rates bbr 32 bulk "$bulk_up" "$bulk_down"
    done
}

[ -e "$dir/compute.json" ] || "$link" prepare "$dir" ${LAYERS:-} >&2
cases > "$dir/cases"
printf '{"computed":%s,"cases":[\n' "$(cat "$dir/compute.json")"
sed '$!s/$/,/' "$dir/cases"
echo ']}'
