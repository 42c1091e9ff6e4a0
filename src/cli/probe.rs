//! `shmworker probe`, which help doesn't show: makes a segment and fills it, so that tests see from outside what becomes of
//! backings and limits.

use super::{
    exit::{self, CliError},
    say,
};
use crate::{
    exec::endpoint::Endpoint,
    mem::{
        backing::Backing,
        layout::Geometry,
        segment::{Options, Segment},
    },
};
use std::{io::Read, path::PathBuf, sync::Arc};

/// What `shmworker probe` was told.
#[derive(clap::Args)]
pub(crate) struct ProbeArgs {
    /// Under the name of this pool
    #[arg(long, conflicts_with = "file")]
    named: Option<String>,
    /// In this file
    #[arg(long)]
    file: Option<PathBuf>,
    /// Take all memory at the start
    #[arg(long)]
    reserve: bool,
    /// Write payloads of so many bytes until one is refused
    #[arg(long)]
    fill: Option<usize>,
    /// Make none: open this one, look at it, and say what is in it
    #[arg(long, conflicts_with_all = ["named", "file", "reserve", "fill", "hold"])]
    open: Option<PathBuf>,
    /// Stay until stdin is closed
    #[arg(long)]
    hold: bool,
}

/// Makes the segment, and says how far it came.
///
/// # Errors
/// It can't be made, or opened.
pub(crate) fn run(args: ProbeArgs) -> Result<(), CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::new(exit::FAILURE, e);
    if let Some(path) = args.open {
        let segment = Segment::open(&path, false).map_err(|e| failed(&e))?;
        say(segment.table().audit());
        return Ok(());
    }
    let backing = match (args.named, args.file) {
        (Some(pool), _) => Backing::Named(pool),
        (_, Some(path)) => Backing::File(path),
        _ => Backing::Memfd,
    };
    let options = Options { backing, reserve: args.reserve, ..Options::default() };
    let segment = Arc::new(Segment::create_with(Geometry::new(64, 1), &options).map_err(|e| failed(&e))?);
    say("made");
    if let Some(len) = args.fill {
        let me = segment.table().admit(std::process::id(), 0).map_err(|e| failed(&e))?;
        let endpoint = Endpoint::new(segment.clone(), me.ok_or(failed(&"a new segment has room for one"))?);
        let mut drafts = Vec::new();
        let refusal = loop {
            match endpoint.draft(len) {
                Ok(mut draft) => {
                    draft.payload().map_err(|e| failed(&e))?.fill(1);
                    drafts.push(draft);
                }
                Err(e) => break e,
            }
        };
        say(format_args!("accepted {}, then: {refusal}", drafts.len()));
        std::mem::forget(drafts); // they stay as they are, for whoever looks
    }
    if args.hold {
        let _ = std::io::stdin().read(&mut [0]); // whatever ends it
    }
    Ok(())
}
