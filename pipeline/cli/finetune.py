"""`fit_heads.py finetune`: encoder and head trained together."""

from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import cache_option, device_option, given, head_options, results_option

__all__ = ["finetune"]

#: Options of `EncoderTraining`; the others are the head's.
TRAINING = ("encoder_lr", "layer_decay", "warmup", "encoder_dropout", "lora", "accumulation", "patience", "precision")


class FinetuneCommand(KanglueCommand):
    """A command whose checkpoints outlast an interrupt."""

    resumes = "interrupted: the last epoch's checkpoint is kept; run the same command to resume from it"


@click.command(cls=FinetuneCommand)
@click.argument("task")
@click.option("--head", required=True, callback=comma_separated, metavar="H,..", help="Families; trans_mlp is mlp.")
@click.option("--encoder", metavar="E", help="The encoder to start from, which is the cache's.  [bert-base-cased]")
@click.option("--features", metavar="F", help="pooled, cls or mean.  [the encoder's default]")
@click.option("--protocol", default="clean", show_default=True, metavar="clean|published", help="The recipe.")
@click.option("--seeds", default="0", show_default=True, metavar="A:B", help="Replicates, half-open.")
@click.option("--encoder-lr", type=float, help="Learning rate of the encoder; --lr is the head's.  [2e-5]")
@click.option("--layer-decay", type=float, help="Factor of the rate from each encoder layer to the one below.  [1]")
@click.option("--warmup", type=float, help="Fraction of the steps over which rates rise.  [clean: 0.1, published: 0]")
@click.option("--encoder-dropout", type=float, help="Fraction of the pooled vector dropped before the head.  [0.1]")
@click.option("--lora", type=int, metavar="R", help="Train LoRA updates of rank R instead of the encoder's weights.")
@click.option("--accumulation", type=int, metavar="N", help="Minibatches that make one step of --batch-size rows.  [1]")
@click.option("--patience", type=int, metavar="N", help="Stop after N epochs without improvement.  [never]")
@click.option("--precision", metavar="auto|float32|bfloat16|float16", help="auto: bfloat16 on a GPU.  [auto]")
@head_options(several=False)
@cache_option
@results_option
@device_option
def finetune(task: str, head: tuple[str, ...], seeds: str, as_json: bool, **options: Any) -> None:
    """Train families of heads together with their encoder on TASK's cached texts, beside the heads on frozen ones.

    Each fine-tuned encoder is a folder that embed.py run takes as --encoder. Needs the extra `finetune`.

    Example: python fit_heads.py finetune mrpc --head mlp,effi_kan --encoder minilm --seeds 0:3 --cache cache/sample
    """
    from dataclasses import asdict

    from pipeline.finetune.run import finetune as train
    from pipeline.progress import say
    from pipeline.sweep.ranges import parse_range

    chosen = given(options)
    training = {name.removeprefix("encoder_"): chosen.pop(name) for name in TRAINING if name in chosen}
    numbers = (parse_range("seeds", seeds, whole=True).values() or ()) if ":" in seeds else (int(seeds),)
    done = []
    for family in head:
        for seed in numbers:
            result = train(task, head=family, seed=seed, training=training, **chosen)
            done.append(result)
            state = "" if result.trained else ", stored already"
            say(f"{task} {result.head}, seed {seed}: {result.fit_seconds:.1f} s, epoch {result.epoch}{state}")
    if count := sum(result.degenerate for result in done):
        say(f"{count} of {len(done)} fine-tuned heads give all rows of a split one class")
    emit([{key: value for key, value in asdict(result).items() if key != "trained"} for result in done], as_json)
    if not as_json:
        from pipeline.cli.table import show

        show(options["results"], {"id": [result.id for result in done]})
