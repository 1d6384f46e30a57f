"""The CA's public names: authorities that are kept on disk, and the leaves that they sign."""

from proxy.keys.authority import Authority, CertificateAuthority, start_over
from proxy.keys.leaf import Leaf, LeafStore, MintBudget

__all__ = ["Authority", "CertificateAuthority", "Leaf", "LeafStore", "MintBudget", "start_over"]
