"""Who stands for a bundle: Ed25519 over the bytes of ``manifest.json``, which lists the digest of every other entry.

Invariants
- A folder of public keys (``*.pub``, PEM) is the trust: add a key to trust it, remove it to revoke it.
- With such a folder configured, a bundle that no key in it has signed is refused; an empty folder trusts nobody.
- The private key is written with mode 0600, never over an existing file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent.bundle.archive import Archive
from agent.errors import BundleError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUFFIX = ".pub"


def generate(path: Path) -> Path:
    """Make a key pair: the private key at ``path``, the public one beside it with ``.pub``, which is returned."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(path.name + SUFFIX)
    for file, data, mode in ((path, private, 0o600), (beside, public, 0o644)):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            raise UsageError(f"{file}: exists already; choose another name, keys are never overwritten") from None
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from None
        with os.fdopen(handle, "wb") as out:
            out.write(data)
    return beside


def sign(archive: Archive, key_file: Path) -> bytes:
    """64 bytes: the signature of the bundle's manifest by the private key in ``key_file``."""
    return _private(key_file).sign(archive.manifest_bytes)


def signer(archive: Archive, trusted: Path) -> str | None:
    """The name of the key in ``trusted`` (file name without ``.pub``) that signed the bundle; None when none did.

    ``BundleError`` for a folder or a key in it that cannot be read: trust that cannot be looked up is not given.
    """
    from cryptography.exceptions import InvalidSignature

    keys = _public_keys(trusted)
    if archive.signature is None:
        return None
    for name, key in keys.items():
        try:
            key.verify(archive.signature, archive.manifest_bytes)
        except InvalidSignature:
            continue
        return name
    return None


def require(archive: Archive, trusted: Path | None) -> str | None:
    """The signer's name; None where no trust is configured. ``BundleError`` for a bundle that is not trusted."""
    if trusted is None:
        return None
    name = signer(archive, trusted)
    if name is None:
        what = "is not signed" if archive.signature is None else "is signed by nobody that is trusted"
        raise BundleError(f"{archive.path}: {what}; trusted are the keys in {trusted}: sign it with one of theirs")
    return name


def _private(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{file}: not an Ed25519 private key without password; make one with weldwatch bundle keygen")
    return key


def _public_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found: dict[str, Ed25519PublicKey] = {}
    try:
        for file in sorted(folder.iterdir()):
            if file.suffix == SUFFIX:
                key = load_pem_public_key(file.read_bytes())
                if not isinstance(key, Ed25519PublicKey):
                    raise BundleError(f"{file}: not an Ed25519 public key; remove it from the trusted keys")
                found[file.stem] = key
    except OSError as error:
        raise BundleError(f"bundle.trusted_keys: {error.filename or folder}: {error.strerror}") from None
    except ValueError:
        raise BundleError(f"{file}: not a public key in PEM; remove it from the trusted keys") from None
    return found
