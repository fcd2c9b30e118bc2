# shellcheck shell=sh
# What a station has beside the program: its user, its folders, its configuration, and which of its services are on.
# Read by install.sh and by the scripts of the Debian package; made once, and never changed when it is there.
ETC=/etc/weldwatch VAR=/var/lib/weldwatch
WANTED=/etc/systemd/system/multi-user.target.wants # what is enabled, also while the units are away
STOPPED=$ETC/.stopped                              # what was on when the program was taken away
# shellcheck disable=SC2034 # for install.sh
PENDING=$ETC/.pending                              # what install.sh was about to take into use and to start

systemd_runs() { [ -d /run/systemd/system ]; }

# The services that are on: they run, or are started again and again. Not what an administrator has stopped.
units_on() {
    systemctl list-units --plain --no-legend --full --state=active,activating,reloading \
        weldwatch.service 'weldwatch@*.service' | cut -d' ' -f1
}

units_enabled() {
    for unit in "$WANTED"/weldwatch.service "$WANTED"/weldwatch@*.service; do
        [ ! -L "$unit" ] || basename "$unit"
    done
}

config_of() { # UNIT
    name=${1#weldwatch@}
    name=${name%.service}
    [ "$name" != weldwatch ] || name=agent
    echo "$ETC/$name.yaml"
}

# What is on is written down first, also over a removal: what somebody had stopped stays so.
stop_units() {
    [ -e "$STOPPED" ] || [ ! -d "$ETC" ] || units_on > "$STOPPED"
    systemctl stop weldwatch.service 'weldwatch@*.service'
}

# Each of UNITS, told in one line where it does not start. Fails with the last that did not.
start_units() { # UNITS
    started=0
    for unit in $1; do
        systemctl restart "$unit" 2> /dev/null || {
            started=1 config=$(config_of "$unit")
            why=$(timeout 60 /opt/weldwatch/current/bin/weldwatch check --config "$config" 2>&1 > /dev/null | tail -n 1)
            echo "weldwatch: $unit does not start: ${why:+$why; }see 'weldwatch check --config $config', then:" \
                "systemctl restart $unit" >&2
        }
    done
    return $started
}

make_user() {
    getent passwd weldwatch > /dev/null ||
        useradd --system --user-group --home-dir "$VAR" --shell /usr/sbin/nologin weldwatch
}

make_folders() { # EXAMPLE
    [ -d "$VAR" ] || install -d -o weldwatch -g weldwatch -m 0750 "$VAR"
    # The camera's FTP or SMB user joins the group, to deliver here.
    [ -d "$VAR/captures" ] || install -d -o weldwatch -g weldwatch -m 2770 "$VAR/captures"
    [ -d "$ETC" ] || install -d -m 0755 "$ETC"
    [ -d "$ETC/credentials" ] || install -d -m 0700 "$ETC/credentials"
    [ -s "$ETC/agent.yaml" ] || install -o root -g weldwatch -m 0640 "$1" "$ETC/agent.yaml"
}

remove_station() {
    rm -rf "$ETC" "$VAR" /etc/systemd/system/weldwatch.service.d /etc/systemd/system/weldwatch@.service.d \
        "$WANTED"/weldwatch.service "$WANTED"/weldwatch@*.service
    if getent passwd weldwatch > /dev/null; then userdel weldwatch; fi
    if getent group weldwatch > /dev/null; then groupdel weldwatch; fi
}
