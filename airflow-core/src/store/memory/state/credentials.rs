//! Connections, and tokens in the place of others.

use crate::store::{ConnectionRow, EncryptedField, TokenSwap};

use super::State;

impl State {
    pub(in crate::store::memory) fn set_connection(&mut self, row: ConnectionRow) {
        let known = self.connections.get(&row.conn_id).and_then(|row| row.description.clone());
        let description = row.description.or(known);
        self.connections.insert(row.conn_id.clone(), ConnectionRow { description, ..row });
    }

    pub(in crate::store::memory) fn swap_tokens(&mut self, swaps: Vec<TokenSwap>) -> u64 {
        swaps.into_iter().map(|swap| u64::from(self.swap(swap).is_some())).sum()
    }

    fn swap(&mut self, swap: TokenSwap) -> Option<()> {
        let field = match &swap.field {
            EncryptedField::Variable(key) => {
                let row = self.variables.get_mut(key).filter(|row| row.is_encrypted)?;
                &mut row.value
            }
            EncryptedField::Password(id) => {
                let row = self.connections.get_mut(id).filter(|row| row.is_encrypted)?;
                row.password.as_mut()?
            }
            EncryptedField::Extra(id) => {
                let row = self.connections.get_mut(id).filter(|row| row.is_extra_encrypted)?;
                row.extra.as_mut()?
            }
        };
        if *field != swap.from {
            return None;
        }
        *field = swap.to;
        Some(())
    }
}
