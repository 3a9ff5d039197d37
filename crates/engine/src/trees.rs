//! The trees of files that travel with a container, in the same order on both nodes.

use std::path::PathBuf;

use drover_disk::delta::{Place, Tree};
use drover_model::Explained;

use crate::container::Container;
use crate::error::failure;

/// A tree, and the directory beside it, on its file system, in which files are put aside while it arrives.
struct Travels {
    tree: Tree,
    aside: Option<PathBuf>,
}

fn travelling(container: &Container) -> Vec<Travels> {
    let layout = &container.layout;
    let on_disk = |path: PathBuf| {
        let mut aside = path.clone().into_os_string();
        aside.push("-aside");
        Travels { tree: Tree { path, in_memory: false }, aside: Some(aside.into()) }
    };
    let in_memory = |path| Travels { tree: Tree { path, in_memory: true }, aside: None };
    let mut travelling =
        vec![on_disk(layout.upper()), on_disk(layout.log()), in_memory(layout.dev()), in_memory(layout.shm())];
    for (path, memory) in container.volumes.travelling(&container.spec(), layout) {
        travelling.push(if memory { in_memory(path) } else { on_disk(path) });
    }
    travelling
}

/// What the source sends.
pub(crate) fn trees(container: &Container) -> Vec<Tree> {
    travelling(container).into_iter().map(|travels| travels.tree).collect()
}

/// Where it arrives on the target, with room to put files aside.
pub(crate) fn places(container: &Container) -> Result<Vec<Place>, Explained> {
    let place = |travels: Travels| {
        let Travels { tree: Tree { path, .. }, aside } = travels;
        aside.iter().try_for_each(std::fs::create_dir_all).map(|()| Place { path, aside })
    };
    let places: Result<_, std::io::Error> = travelling(container).into_iter().map(place).collect();
    places.map_err(|error| failure("cannot make room for the container's files", &error))
}

/// Removes that room, which is empty, once all has arrived.
pub(crate) fn clear(container: &Container) {
    for aside in travelling(container).into_iter().filter_map(|travels| travels.aside) {
        if let Err(error) = std::fs::remove_dir(&aside) {
            tracing::debug!(%error, path = %aside.display(), "no room to clear");
        }
    }
}
