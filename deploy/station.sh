# shellcheck shell=sh
# What a station has beside the program: its user, its folders, its configuration. Read by install.sh and by the scripts
# of the Debian package; made once, and never changed when it is there.
ETC=/etc/weldwatch VAR=/var/lib/weldwatch

systemd_runs() { [ -d /run/systemd/system ]; }

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
    [ -e "$ETC/agent.yaml" ] || install -o root -g weldwatch -m 0640 "$1" "$ETC/agent.yaml"
}

remove_station() {
    rm -rf "$ETC" "$VAR" /etc/systemd/system/weldwatch.service.d /etc/systemd/system/weldwatch@.service.d \
        /etc/systemd/system/multi-user.target.wants/weldwatch@*.service
    if getent passwd weldwatch > /dev/null; then userdel weldwatch; fi
    if getent group weldwatch > /dev/null; then groupdel weldwatch; fi
}
