#!/bin/sh
# Halves the learning rate of a running session whenever its validation loss stands still.
# Usage: halve-on-plateau.sh [RUN], with PATIENCE=N for another number of epochs than 3
tui=${CIFAR_TUI:-cifar-tui} patience=${PATIENCE:-3} best=1e30 still=0

"$tui" watch "$@" --json | while read -r event; do
    case $event in
    *'"event":"snapshot"'*) continue ;; # what was before
    *'"event":"epoch"'*) ;;
    *) continue ;;
    esac
    loss=$(printf '%s\n' "$event" | sed -n 's/.*"val_loss":\([0-9.e+-]*\),.*/\1/p')
    if awk "BEGIN { exit !(${loss:-1e30} < 0.999 * $best) }"; then
        best=$loss still=0
    elif [ $((still += 1)) -ge "$patience" ]; then
        rate=$("$tui" send "$@" ask status | sed 's/.*"params":{[^}]*"learning_rate":\([^,}]*\).*/\1/')
        "$tui" send "$@" set learning_rate="$(awk "BEGIN { print $rate / 2 }")"
        still=0
    fi
done
