"""What is known of the published model, as data; imports no torch."""

from swath.core.zoo import ModelCard

CARDS = (
    ModelCard(
        name="remotesam-swin-b",
        title="RemoteSAM, Swin-B and BERT-base, 896 px: eight tasks in words",
        task="referring segmentation and what is built on it",
        paper="RemoteSAM, Yao et al. 2025",
        paper_url="https://arxiv.org/abs/2505.18022",
        official_repo="https://github.com/1e12Leon/RemoteSAM",
        licence_code="no licence file",
        licence_weights="not stated",
        params=241_590_421,
        weights=(
            "released by the authors, hf://1e12Leon/RemoteSAM; beside them the vocabulary of "
            "bert-base-uncased is needed (vocab.txt): fetched, or a local copy in SWATH_BERT_VOCAB"
        ),
        builder="swath.refseg.models.remotesam:remotesam",
        builder_kwargs={"size": "b"},
        task_builder="swath.refseg.task:ReferringTask",
        task_kwargs={"tokenizer": {"_target_": "swath.refseg.text:WordPieces"}},
        converter="swath.refseg.models.remotesam:remap_official_keys",
    ),
)
