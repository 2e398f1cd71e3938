//! Two connected volunteers with one key: a store was copied.
//!
//! The connected one keeps its identity, the other one is refused and may try again. A volunteer whose address has changed
//! is refused, too, until the lease of its former registration ends.

use super::super::Tracker;
use super::{error, orders};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::TrackerResponse;
use crate::protocol::volunteer::VolunteerOrder;
use crate::swarm::machine::Effect;
use crate::swarm::registry::PeerId;
use crate::swarm::replication::StorageOffer;

impl Tracker {
    /// The refusal of an offer under the key of another connected volunteer. Both get one warning.
    pub(super) fn refuse_clone(&mut self, id: PeerId, offer: &StorageOffer) -> Option<TrackerResponse> {
        let keeping = self.keeping.as_mut()?;
        let number = keeping.planner.number_of(offer.key)?;
        let session = *keeping.sessions.get(&number).filter(|session| **session != id)?;
        let connection = self.peers.connection(session)?;
        let owner = self.peers.registry.peer(session)?;
        if owner.address == offer.address {
            return None;
        }
        let text = format!(
            "{} at {} is connected with the same key; a copied store must not be used: choose an empty \
             --volunteer-dir",
            owner.name, owner.address
        );
        if keeping.clones.insert(number, offer.address) != Some(offer.address) {
            self.effects.push(Effect::Warning(format!(
                "two volunteers use one key: {} at {} and {} at {}; the store of one is a copy, and the second one is refused",
                owner.name, owner.address, offer.name, offer.address
            )));
            let order = orders::message(VolunteerOrder::Cloned { at: offer.address });
            self.effects.push(Effect::Push(connection, order));
        }
        Some(error(ErrorCode::Busy, text))
    }
}
