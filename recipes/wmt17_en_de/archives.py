"""What is downloaded: addresses, sizes, checksums, and the files that are wanted of each."""

from dataclasses import dataclass, field

STATMT = "https://www.statmt.org"
STATMT_DATA = "https://data.statmt.org"


@dataclass(frozen=True)
class Archive:
    """An archive of the shared task.

    Attributes:
        title: what is in it.
        url: where it is.
        size: bytes; None: nobody has published it, so the server is asked.
        sha256: of the archive; None: the first download's is noted and has to stay the same.
        files: what is kept: name here → name in the archive, where ``*`` stands for any part.
        unpacked: bytes of these files, roughly.
    """

    title: str
    url: str
    size: int | None
    sha256: str | None
    unpacked: int
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the archive is called here."""
        return self.url.rpartition("/")[2]


def _corpus(stem: str) -> dict[str, str]:
    """The German–English files of a training corpus; archives differ in the folder they are in."""
    return {f"train.{language}": f"*{stem}.de-en.{language}" for language in ("de", "en")}


# Sizes and checksums: TensorFlow Datasets, url_checksums/wmt17_translate.txt, which it checks its
# own downloads with. Its addresses are the task's own (statmt.org).
ARCHIVES = {
    "europarl-v7": Archive(
        "Europarl v7, speeches of the European Parliament",
        f"{STATMT}/wmt13/training-parallel-europarl-v7.tgz",
        657_632_379,
        "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
        600_000_000,
        _corpus("europarl-v7"),
    ),
    "commoncrawl": Archive(
        "Common Crawl, pages of the web",
        f"{STATMT}/wmt13/training-parallel-commoncrawl.tgz",
        918_311_367,
        "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
        700_000_000,
        _corpus("commoncrawl"),
    ),
    "news-commentary-v12": Archive(
        "News Commentary v12",
        f"{STATMT_DATA}/wmt17/translation-task/training-parallel-nc-v12.tgz",
        168_591_139,
        "2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2",
        90_000_000,
        _corpus("news-commentary-v12"),
    ),
    "rapid2016": Archive(
        "Rapid 2016, press releases of the European Commission",
        f"{STATMT_DATA}/wmt18/translation-task/rapid2016.tgz",
        161_050_516,
        "41557dd5d8f0ed3a6d98bce3b798b1a9d3b68361eb99d902329ddbb943a6b55a",
        350_000_000,
        _corpus("rapid2016"),
    ),
    # The test sets of 2014 and 2017 are the same sentences in both directions, so that the
    # reference of German→English is the source of English→German.
    "newstest": Archive(
        "newstest2013, newstest2014 (German and French), newstest2017",
        f"{STATMT_DATA}/wmt19/translation-task/dev.tgz",
        38_654_961,
        "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
        5_000_000,
        {
            "newstest2013.en": "*dev/newstest2013.en",
            "newstest2013.de": "*dev/newstest2013.de",
            "newstest2014.en.sgm": "*dev/newstest2014-deen-ref.en.sgm",
            "newstest2014.de.sgm": "*dev/newstest2014-deen-src.de.sgm",
            "newstest2014.fr.sgm": "*dev/newstest2014-fren-src.fr.sgm",
            "newstest2017.en.sgm": "*dev/newstest2017-deen-ref.en.sgm",
            "newstest2017.de.sgm": "*dev/newstest2017-deen-src.de.sgm",
        },
    ),
    # Nobody whom we know of publishes size or checksum of this one.
    "khresmoi": Archive(
        "Khresmoi summaries, medical (CC BY-NC 4.0)",
        f"{STATMT}/wmt14/medical-task/khresmoi-summary-test-set.tgz",
        None,
        None,
        1_000_000,
        {
            f"{part}.{language}.sgm": f"*khresmoi-summary-{part}.{language}.sgm"
            for part in ("dev", "test")
            for language in ("en", "de")
        },
    ),
}
"""The archives by the folder that they become."""

CORPORA = ("europarl-v7", "commoncrawl", "news-commentary-v12", "rapid2016")
"""Those to train on."""
