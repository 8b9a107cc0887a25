# SPDX-License-Identifier: BSD-3-Clause
# Bash completion for pollux(1).

_pollux_disks()
{
    local word=$1
    case $word in
    file:* | ng:* | ram:* | null:*)
        # Bash takes ':' for the end of a word: what stands before it must not be repeated.
        local scheme=${word%%:*} rest=${word#*:}
        case $scheme in
        file | ng)
            compopt -o filenames -o nospace
            mapfile -t COMPREPLY < <(compgen -f -- "${rest#//}")
            [[ $rest == //* ]] && COMPREPLY=("${COMPREPLY[@]/#/\/\/}")
            ;;
        *) mapfile -t COMPREPLY < <(compgen -W '64M 1G 10G 1T' -- "$rest") ;;
        esac
        ;;
    *)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        # Without files, for as a file name ram: would get a backslash before its ':'.
        [[ ${#COMPREPLY[@]} -gt 0 ]] && compopt -o filenames
        if [[ $word != */* ]]; then
            local scheme
            while read -r scheme; do
                COMPREPLY+=("$scheme")
                compopt -o nospace
            done < <(compgen -W 'ram: null: file: pcie: ng: nvme+tcp: vhost-user: volume: delay: error: crash:' \
                -- "$word")
        fi
        ;;
    esac
}

_pollux_cores()
{
    local last
    last=$(($(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) - 1))
    mapfile -t COMPREPLY < <(compgen -W "$(seq -s ' ' 0 "$last") 0-$last auto" -- "$1")
}

_pollux_perf()
{
    local previous=$1 word=$2
    local options='-q --queue-depth -o --io-size -w --workload -M --read-percent -t --time -P --qpairs -m --cores --rate
        --count --verify --json --poll -h --help'
    case $previous in
    -q | --queue-depth) mapfile -t COMPREPLY < <(compgen -W '1 32 128' -- "$word") ;;
    -o | --io-size) mapfile -t COMPREPLY < <(compgen -W '512 4K 16K 64K 128K 1M' -- "$word") ;;
    -w | --workload) mapfile -t COMPREPLY < <(compgen -W 'randread randwrite randrw read write rw' -- "$word") ;;
    -m | --cores) _pollux_cores "$word" ;;
    --poll) mapfile -t COMPREPLY < <(compgen -W 'busy adaptive sleep' -- "$word") ;;
    --json)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    -M | --read-percent | -t | --time | -P | --qpairs | --rate | --count) ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        else
            _pollux_disks "$word"
        fi
        ;;
    esac
}

_pollux_nvme()
{
    local pollux=$1 previous=$2 word=$3 verb=$4
    case $previous in
    --driver)
        mapfile -t COMPREPLY < <(compgen -W 'vfio-pci uio_pci_generic' -- "$word")
        return
        ;;
    esac
    case $verb:$word in
    :*) mapfile -t COMPREPLY < <(compgen -W 'list bind unbind --help' -- "$word") ;;
    list:*) mapfile -t COMPREPLY < <(compgen -W '--json' -- "$word") ;;
    bind:-*) mapfile -t COMPREPLY < <(compgen -W '--driver --allow-content --dry-run' -- "$word") ;;
    unbind:-*) mapfile -t COMPREPLY < <(compgen -W '--dry-run' -- "$word") ;;
    *) # addresses, or after --allow-content serial numbers; bash takes ':' for the end of a word
        local key=address values
        [[ $previous == --allow-content ]] && key=serial
        values=$("$pollux" nvme list --json 2>/dev/null | sed -n "s/^ *\"$key\": \"\(.*\)\",\$/\\1/p")
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
        [[ $word == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%:*}":}")
        ;;
    esac
}

_pollux_tune()
{
    local pollux=$1 previous=$2 word=$3 names
    case $previous in
    -m | --cores) _pollux_cores "$word" ;;
    --target) _pollux_disks "$word" ;;
    --state)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    --root)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    --load | --rounds | --seconds) ;;
    *)
        names='-m --cores --apply --undo --forget --dry-run --measure --load --target --seconds --rounds --json --list
            --state --root -h --help'
        [[ $word == -* ]] || names=$("$pollux" tune --list 2>/dev/null)
        mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
        ;;
    esac
}

_pollux_compare()
{
    local previous=$1 word=$2
    local options='-q --queue-depth -o --io-size -M --read-percent -m --cores --digests --poll --cross --quick -t --time
        --rounds --targets --hosts --disk --target-cores --host-cores --json --html --from --clean
        -l --listen --key target host -h --help'
    case $previous in
    --digests) mapfile -t COMPREPLY < <(compgen -W 'off on off,on' -- "$word") ;;
    --poll) mapfile -t COMPREPLY < <(compgen -W 'adaptive busy sleep' -- "$word") ;;
    --targets | --hosts) mapfile -t COMPREPLY < <(compgen -W 'pollux kernel' -- "$word") ;;
    --target-cores | --host-cores) _pollux_cores "$word" ;;
    --disk | --json | --html | --from)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        [[ $previous == --disk ]] && mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W 'ram null' -- "$word")
        ;;
    -q | --queue-depth | -o | --io-size | -M | --read-percent | -m | --cores) ;;
    -t | --time | --rounds | -l | --listen | --key) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word") ;;
    esac
}

# pollux pool and pollux volume: a verb, a disk, and names of volumes on it.
_pollux_pool()
{
    local command=$1 pollux=$2 previous=$3 word=$4 verb=${5:-} disk='' each plain=0 options=--json verbs
    shift 5
    case $command:$verb in
    pool:)
        mapfile -t COMPREPLY < <(compgen -W 'create status check repair dump rm --help' -- "$word")
        return
        ;;
    volume:)
        verbs='ls create snapshot clone revert diff export import resize rename rm --help'
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$word")
        return
        ;;
    pool:create) options='--name --cluster --yes --json' ;;
    volume:create) options='--thick --json' ;;
    volume:export) options='--base --offset' ;;
    pool:check) options='--data --json' ;;
    pool:repair | pool:rm | volume:revert | volume:resize | volume:rm) options='--yes --json' ;;
    esac
    case $previous in
    --name) return ;;
    --cluster)
        mapfile -t COMPREPLY < <(compgen -W '1M 4M 16M' -- "$word")
        return
        ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        return
    fi
    previous=''
    for each; do
        if [[ $each != -* && $previous != --name && $previous != --cluster ]]; then
            [[ $plain -eq 0 ]] && disk=$each
            plain=$((plain + 1))
        fi
        previous=$each
    done
    if [[ -z $disk ]]; then
        _pollux_disks "$word"
    elif [[ $command == volume && $verb != create && ($plain -eq 1 || $verb == rm || $verb$plain == revert2) ]]; then
        local names
        names=$(timeout 1 "$pollux" volume ls --json "$disk" 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",$/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
    fi
}

# Names that a server which runs can tell: of disks, or of subsystems.
_pollux_ctl_ask()
{
    case $1 in
    disks) timeout 1 "$2" ctl ls 2>/dev/null | sed -n '2,$s/ .*//p' ;;
    subsystems) timeout 1 "$2" ctl status 2>/dev/null | sed -n 's/^subsystem //p' ;;
    esac
}

# A value, of which the part before the last ':' or '=' stands on the line already.
_pollux_ctl_value()
{
    local value=$1
    shift
    mapfile -t COMPREPLY < <(compgen -W "$*" -- "$value")
    [[ $value == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${value%:*}":}")
}

_pollux_ctl_method()
{
    local pollux=$1 method=$2 word=$3 key=${3%%=*} value=${3#*=} values
    if [[ $word != *=* ]]; then
        compopt -o nospace
        values=$("$pollux" ctl help --keys "$method" 2>/dev/null | cut -d ' ' -f 1)
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
        return
    fi
    values=$("$pollux" ctl help --keys "$method" 2>/dev/null | sed -n "s/^$key= //p")
    case $key in
    nqn) values=$(_pollux_ctl_ask subsystems "$pollux") ;;
    name | bdev_name | *.bdev_name | base_bdev_name) values=$(_pollux_ctl_ask disks "$pollux") ;;
    esac
    _pollux_ctl_value "$value" "$values"
}

_pollux_ctl()
{
    local pollux=$1 previous=$2 word=$3 verb='' i
    shift 3
    local options='-s --socket --json --timeout --nqn --name --nsid --listen -h --help'
    for ((i = 1; i <= $#; i++)); do # the first word that is no option, nor the value of one
        case ${!i} in
        -s | --socket | --timeout | --nqn | --name | --nsid | --listen) i=$((i + 1)) ;;
        -*) ;;
        *)
            verb=${!i}
            break
            ;;
        esac
    done
    case $previous in
    -s | --socket)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    --nqn)
        _pollux_ctl_value "$word" "$(_pollux_ctl_ask subsystems "$pollux")"
        return
        ;;
    --timeout | --name | --nsid | --listen) return ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        return
    fi
    case $verb in
    '' | help) mapfile -t COMPREPLY < <(compgen -W "$("$pollux" ctl help --names 2>/dev/null)" -- "$word") ;;
    add) _pollux_disks "$word" ;;
    rm | resize | smart | identify) _pollux_ctl_value "$word" "$(_pollux_ctl_ask disks "$pollux")" ;;
    allow | deny)
        local hosts=any
        [[ -r /etc/nvme/hostnqn ]] && hosts="any $(< /etc/nvme/hostnqn)"
        _pollux_ctl_value "$word" "$hosts"
        ;;
    load | import)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        [[ $verb == import && $previous == import ]] && COMPREPLY=(nvmet)
        ;;
    status | ls | create | listen | connections | stats | inflight | vms | save) ;;
    *) _pollux_ctl_method "$pollux" "$verb" "$word" ;;
    esac
}

_pollux()
{
    local commands='serve ctl perf cp identify discover nvme tune compare pool volume help'
    local options='-l --listen -n --nqn -m --cores --allow --allow-any-host --poll --nic-poll --max-io-size
        --queue-depth
        --max-queues --in-capsule --peer-timeout --serial -r --rpc -c --config --state -S --vhost --socket-group
        --example --wait-for-rpc -v --verbose -q --quiet -h --help'
    local line word previous words
    # The words as the shell splits them at spaces: 'ram:1G' is one.
    line=${COMP_LINE:0:COMP_POINT}
    word=${line##*[[:space:]]}
    read -ra words <<<"$line"
    [[ -n $word ]] && unset 'words[-1]'
    previous=${words[-1]}
    COMPREPLY=()

    if [[ ${#words[@]} -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands --version version --help" -- "$word")
        return
    fi
    case ${words[1]} in
    help)
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
        return
        ;;
    serve) ;;
    perf)
        _pollux_perf "$previous" "$word"
        return
        ;;
    nvme)
        _pollux_nvme "${words[0]}" "$previous" "$word" "${words[2]:-}"
        return
        ;;
    tune)
        _pollux_tune "${words[0]}" "$previous" "$word"
        return
        ;;
    compare)
        _pollux_compare "$previous" "$word"
        return
        ;;
    pool | volume)
        _pollux_pool "${words[1]}" "${words[0]}" "$previous" "$word" "${words[2]:-}" "${words[@]:3}"
        return
        ;;
    ctl)
        _pollux_ctl "${words[0]}" "$previous" "$word" "${words[@]:2}"
        return
        ;;
    *) return ;;
    esac

    case $previous in
    -r | --rpc | -c | --config | --state)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    -S | --vhost)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    --example) mapfile -t COMPREPLY < <(compgen -W 'vm' -- "$word") ;;
    --socket-group) mapfile -t COMPREPLY < <(compgen -g -- "$word") ;;
    -l | --listen) mapfile -t COMPREPLY < <(compgen -W '127.0.0.1 0.0.0.0 [::1] [::]' -- "$word") ;;
    -m | --cores) _pollux_cores "$word" ;;
    --poll) mapfile -t COMPREPLY < <(compgen -W 'busy adaptive sleep' -- "$word") ;;
    --max-io-size) mapfile -t COMPREPLY < <(compgen -W '128K 256K 512K 1M' -- "$word") ;;
    --queue-depth) mapfile -t COMPREPLY < <(compgen -W '32 64 128 256 512 1024' -- "$word") ;;
    --in-capsule) mapfile -t COMPREPLY < <(compgen -W '4K 8K 16K' -- "$word") ;;
    --allow)
        if [[ -r /etc/nvme/hostnqn ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(< /etc/nvme/hostnqn)" -- "$word")
        fi
        # The part before the last ':' of the word stands on the line already.
        [[ $word == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%:*}":}")
        ;;
    -n | --nqn | --max-queues | --peer-timeout | --serial) ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        else
            _pollux_disks "$word"
        fi
        ;;
    esac
}

complete -F _pollux pollux
