//! The random graph of connections between peers.

use super::Setting;

/// The sources of each peer: randomly drawn other peers. A seeder has no sources and a limited number of clients.
pub(super) fn draw_connections(setting: &Setting, random: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    let &Setting { seeders, peers: leechers, neighbours: most, .. } = setting;
    let total = seeders + leechers;
    let mut graph: Vec<Vec<usize>> = vec![Vec::new(); total];
    for seeder in 0..seeders {
        for leecher in random.choose_multiple(seeders..total, setting.seeder_connections.min(leechers)) {
            graph[leecher].push(seeder);
        }
    }
    for (peer, sources) in graph.iter_mut().enumerate().skip(seeders) {
        let left = most.saturating_sub(sources.len()).min(leechers - 1);
        if left == leechers - 1 {
            sources.extend((seeders..total).filter(|other| *other != peer));
            continue;
        }
        let full = sources.len() + left;
        while sources.len() < full {
            let other = random.usize(seeders..total);
            if other != peer && !sources.contains(&other) {
                sources.push(other);
            }
        }
    }
    graph
}
