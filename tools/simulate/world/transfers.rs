//! Requests for chunks, and the transfers of their blocks over the links.

use super::peer::Transfer;
use super::{Event, World};
use crate::network::Forecast;
use shoal::content::ChunkIndex;
use shoal::swarm::picker::SourceId;
use std::time::Duration;

/// Maximum ratio of the rate at which an incomplete chunk is forwarded to the rate at which it arrives.
const CATCH_UP_FACTOR: f64 = 1.02;

impl World {
    pub(super) fn ask_all(&mut self, peer: usize) {
        if !self.peers[peer].fetches() {
            return;
        }
        let mut order = std::mem::take(&mut self.order);
        order.clone_from(&self.peers[peer].sources);
        self.random.shuffle(&mut order);
        order.drain(..).for_each(|other| self.ask(peer, other));
        self.order = order;
        self.ask_next(peer);
    }

    /// Sends the requests that the picker of a peer makes to a source.
    pub(super) fn ask(&mut self, peer: usize, other: usize) {
        if peer < self.setting.seeders || self.peers[peer].done.is_some() {
            return;
        }
        let source = SourceId(other as u32);
        while let Some(index) = self.peers[peer].picker.pick(source, self.now, &mut self.random) {
            self.send_message(peer, Event::Asks(peer, other, index));
        }
    }

    pub(super) fn asked(&mut self, from: usize, to: usize, index: ChunkIndex) {
        self.peers[to].clients.asked(from);
        self.peers[to].member.forwarded(index);
        if let Some(seeder) = &mut self.peers[to].super_seeder {
            seeder.sent(from, index);
            self.tell_if_spent(to);
        }
        self.peers[to].is_asked(from, Some(index));
        self.serve(to, from);
    }

    /// Whether the transfer from a seeder to a client may begin: only few run at the same time.
    fn may_begin(&mut self, from: usize, to: usize) -> bool {
        let seeder = &mut self.peers[from];
        let ticket = seeder.tickets.iter().find(|(client, _)| *client == to).map(|(_, ticket)| *ticket);
        let ticket = ticket.unwrap_or_else(|| {
            let ticket = seeder.transfers.enqueue();
            seeder.tickets.push((to, ticket));
            ticket
        });
        match seeder.transfers.try_begin(ticket, self.now) {
            Ok(()) => true,
            Err(wait) => {
                let at = self.now + wait.max(Duration::from_millis(1));
                self.at(at, Event::Serve(from, to));
                false
            }
        }
    }

    /// Ends the transfer of a seeder to a client, and begins those that wait.
    pub(super) fn end_ticket(&mut self, from: usize, to: usize) {
        let seeder = &mut self.peers[from];
        let Some(at) = seeder.tickets.iter().position(|(client, _)| *client == to) else { return };
        let (_, ticket) = seeder.tickets.remove(at);
        seeder.transfers.end(ticket, self.now);
        let waiting: Vec<usize> = seeder.tickets.iter().map(|(client, _)| *client).collect();
        waiting.into_iter().for_each(|client| self.serve(from, client));
    }

    /// Starts the next requested transfer to a client, unless it already receives from this peer.
    pub(super) fn serve(&mut self, from: usize, to: usize) {
        if self.peers[to].coming(from).is_some() || !self.peers[from].has_asked(to) {
            return;
        }
        if from < self.setting.seeders && !self.may_begin(from, to) {
            return;
        }
        let Some(asked) = self.peers[from].next_asked(to) else { return };
        let Some(index) = asked.or_else(|| self.choose_next(from, to)) else {
            self.end_ticket(from, to);
            return self.serve(from, to);
        };
        if self.peers[from].received_blocks(index) == 0 {
            self.messages += 1;
            self.peers[from].clients.misses(to, self.now);
            self.peers[to].picker.refused(SourceId(from as u32), index);
            self.ask(to, from);
            return self.serve(from, to);
        }
        let total = self.length(index).div_ceil(self.setting.block) as u32;
        self.peers[to].receive(from, Transfer { index, blocks: 0, total, flow: None });
        self.peers[from].sending.push(to);
        self.block(from, to);
    }

    /// Sends the next block, if the sender has it.
    fn block(&mut self, from: usize, to: usize) {
        let Some(&mut Transfer { index, blocks, total, flow }) = self.peers[to].coming(from) else { return };
        if flow.is_some() || self.peers[from].received_blocks(index) <= blocks {
            return;
        }
        let bytes = self.length(index) as f64 * self.setting.overhead / f64::from(total);
        let (weight, now) = (self.weight(from, to), self.now.as_secs_f64());
        let most = self.forward_rate_max(from, index, blocks + 1);
        let flow = self.network.start((from, to), bytes, (weight, most), now, &mut self.forecasts);
        if let Some(transfer) = self.peers[to].coming(from) {
            transfer.flow = Some(flow);
        }
        self.schedule_forecasts();
    }

    /// Maximum rate at which a peer can forward the blocks after the first `blocks` of a chunk.
    fn forward_rate_max(&self, peer: usize, index: ChunkIndex, blocks: u32) -> f64 {
        let peer = &self.peers[peer];
        let rates = peer.flows(index).filter_map(|flow| self.network.rate(flow));
        match rates.fold(0.0, f64::max) {
            most if most > 0.0 && peer.received_blocks(index) <= blocks => most * CATCH_UP_FACTOR,
            _ => f64::INFINITY,
        }
    }

    /// Weight of a connection: TCP does not share a link equally.
    fn weight(&self, from: usize, to: usize) -> f64 {
        let pair = (self.setting.seed << 48) ^ ((from as u64) << 24) ^ to as u64;
        self.setting.unfair.powf(fastrand::Rng::with_seed(pair).f64() - 0.5)
    }

    pub(super) fn schedule_forecasts(&mut self) {
        let mut forecasts = std::mem::take(&mut self.forecasts);
        for Forecast { flow, version, end } in forecasts.drain(..) {
            self.at(Duration::from_secs_f64(end).max(self.now), Event::BlockEnds(flow, version));
        }
        self.forecasts = forecasts;
    }

    pub(super) fn block_ends(&mut self, flow: usize) {
        let Some((from, to)) = self.network.between(flow) else { return };
        self.network.end(flow, self.now.as_secs_f64(), &mut self.forecasts);
        self.schedule_forecasts();
        let Some(transfer) = self.peers[to].coming(from) else { return };
        transfer.flow = None;
        transfer.blocks += 1;
        let (index, blocks, total) = (transfer.index, transfer.blocks, transfer.total);
        self.peers[to].picker.heard(SourceId(from as u32), self.now);
        let is_new = blocks == 1 && !self.peers[to].picker.done().has(index);
        if is_new && self.peers[to].clients.begins(index, self.now) {
            self.at(self.now + self.setting.latency, Event::Coming(to, index, self.now));
        }
        match blocks == total {
            true => self.transferred(from, to, index),
            false => self.block(from, to),
        }
        for at in 0..self.peers[to].sending.len() {
            self.block(to, self.peers[to].sending[at]);
        }
    }

    fn transferred(&mut self, from: usize, to: usize, index: ChunkIndex) {
        let bytes = self.length(index);
        self.peers[to].received(from);
        self.peers[from].sent(to);
        self.sent += bytes;
        if from < self.setting.seeders {
            self.seeder_sent += bytes;
        }
        self.end_ticket(from, to);
        self.serve(from, to);
        self.peers[to].member.delivered(from);
        let peer = &mut self.peers[to];
        if !peer.picker.arrived(SourceId(from as u32), index, self.now) {
            self.wasted += bytes;
        } else if let Some(when) = peer.clients.ends(index, self.now) {
            self.at(when + self.setting.latency, Event::News(to));
        }
        let peer = &self.peers[to];
        if peer.done.is_none() && peer.picker.is_complete() {
            self.complete(to);
        }
        self.ask(to, from);
        self.ask_next(to);
        if self.setting.peers < 100 {
            self.ask_all(to);
        }
    }

    /// Ends a transfer without its last block, and each transfer that forwards the same chunk.
    pub(super) fn abort(&mut self, from: usize, to: usize) {
        let Some(Transfer { index, flow, .. }) = self.peers[to].received(from) else { return };
        self.peers[from].sent(to);
        if let Some(flow) = flow {
            self.network.end(flow, self.now.as_secs_f64(), &mut self.forecasts);
            self.schedule_forecasts();
        }
        self.end_ticket(from, to);
        self.peers[to].picker.refused(SourceId(from as u32), index);
        let elsewhere = self.peers[to].received_blocks(index) > 0;
        if !elsewhere {
            self.peers[to].clients.lost(index);
        }
        for other in self.peers[to].sending.clone() {
            let same = self.peers[other].coming(to).is_some_and(|transfer| transfer.index == index);
            if same && !elsewhere {
                self.abort(to, other);
            }
        }
    }
}
