"""libtorrent as a program: libtorrent_peer.py seed|leech TORRENT FOLDER PORT [PORT-OF-A-SEEDER ...]"""

import sys
import libtorrent

role, torrent, folder, port, *seeders = sys.argv[1:]
session = libtorrent.session({
    "listen_interfaces": f"127.0.0.1:{port}", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "allow_multiple_connections_per_ip": True,
    "alert_mask": libtorrent.alert.category_t.status_notification | libtorrent.alert.category_t.error_notification,
})
handle = session.add_torrent({"ti": libtorrent.torrent_info(torrent), "save_path": folder})
for seeder in seeders:
    handle.connect_peer(("127.0.0.1", int(seeder)))
while True:
    session.wait_for_alert(1000)
    for alert in session.pop_alerts():
        if isinstance(alert, libtorrent.torrent_finished_alert):
            if role == "leech":
                sys.exit(0)
            print("seeding", flush=True)
        elif isinstance(alert, (libtorrent.torrent_error_alert, libtorrent.file_error_alert)):
            sys.exit(str(alert))
