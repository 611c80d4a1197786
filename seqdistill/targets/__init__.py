"""Stage two: what the student is trained towards."""

from seqdistill.targets.proxy import ProxyDirichletTarget, proxy_dirichlet_target

__all__ = ["ProxyDirichletTarget", "proxy_dirichlet_target"]
