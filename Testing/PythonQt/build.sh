#!/bin/sh
# Build `build/pythonqt-host` from checkouts of PythonQt and CTK (see README.md). About ten minutes of one core.
set -eu
pythonqt=$(realpath "$1")
ctk=$(realpath "$2")/Libs
here=$(dirname "$(realpath "$0")")
mkdir -p "$here/build"
cd "$here/build"
qt=$(qmake6 -query QT_INSTALL_HEADERS)
libraries=$(qmake6 -query QT_INSTALL_LIBS)
tools=$(qmake6 -query QT_INSTALL_LIBEXECS)
version=$(qmake6 -query QT_VERSION)
about() { "${PYTHON:-/usr/bin/python3}" -c "import sysconfig; print($1)"; } # needs its development files
python=$(about 'sysconfig.get_path("include")')
linked="-L$(about 'sysconfig.get_config_var("LIBPL")') -lpython$(about 'sysconfig.get_config_var("LDVERSION")')"
includes="-I. -I$here -I$pythonqt/src -I$ctk/Core -I$ctk/Widgets -I$python -I$qt"
for module in Core Gui Widgets UiTools PrintSupport; do includes="$includes -I$qt/Qt$module"; done
includes="$includes -I$qt/QtCore/$version -I$qt/QtCore/$version/QtCore"

compile() { # SOURCE OBJECT [FLAGS]: once
  source=$1; object=$2; shift 2
  [ -s "$object" ] || g++ -c -fPIC -O0 -g0 -w -std=c++17 -DPYTHONQT_CATCH_ALL_EXCEPTIONS \
    -DPYTHONQT_SUPPORT_NAME_PROPERTY $includes "$@" -o "$object" "$source"
}
meta() { # HEADER [FLAGS]: its moc, compiled
  header=$1; shift
  grep -q Q_OBJECT "$header" || return 0
  name=moc_$(basename "$header" .h)
  "$tools/moc" $includes "$header" -o "$name.cpp"
  compile "$name.cpp" "$name.o" "$@"
}

# The wrappers of Qt are generated from this Qt's own headers.
if [ ! -d generated_cpp ]; then
  mkdir -p generator
  (cd generator && qmake6 "$pythonqt/generator/generator.pro" CONFIG+=release && make -j1)
  program=$(find . "$pythonqt/generator" -name pythonqt_generator -type f | head -1 | xargs realpath)
  (cd "$pythonqt/generator" && "$program" --qt-version="$version" --include-paths="$qt" \
    --output-directory="$here/build" qtscript_masterinclude.h build_all.txt)
fi
for header in "$pythonqt"/src/*.h "$pythonqt"/src/gui/*.h; do meta "$header"; done
for source in "$pythonqt"/src/*.cpp "$pythonqt"/src/gui/*.cpp; do
  compile "$source" "$(basename "$source" .cpp).o"
done
for part in core_builtin gui_builtin core gui; do
  folder=generated_cpp/com_trolltech_qt_$part
  for header in "$folder"/*.h; do meta "$header" -I"$folder"; done
  for source in "$folder"/*.cpp; do compile "$source" "$(basename "$source" .cpp).o" -I"$folder"; done
done

echo '#define CTK_CORE_EXPORT' >ctkCoreExport.h
echo '#define CTK_WIDGETS_EXPORT' >ctkWidgetsExport.h
"$tools/uic" "$ctk/Widgets/Resources/UI/ctkSliderWidget.ui" -o ui_ctkSliderWidget.h
for name in Core/ctkUtils Core/ctkValueProxy Widgets/ctkBasePopupWidget Widgets/ctkPopupWidget \
  Widgets/ctkDoubleSlider Widgets/ctkDoubleSpinBox Widgets/ctkSliderWidget Widgets/ctkPathLineEdit \
  Widgets/ctkCollapsibleButton; do
  source=$ctk/$name.cpp
  base=$(basename "$name")
  for header in "$ctk/$name.h" "$ctk/${name}_p.h"; do
    if [ -f "$header" ]; then meta "$header"; fi
  done
  if grep -q "\"$base.moc\"" "$source"; then "$tools/moc" $includes "$source" -o "$base.moc"; fi
  compile "$source" "$base.o"
done

rm -f host.o moc_host.o
"$tools/moc" $includes "$here/host.h" -o moc_host.cpp
compile moc_host.cpp moc_host.o
compile "$here/host.cpp" host.o
g++ -o pythonqt-host ./*.o -lQt6UiTools "$libraries"/libQt6OpenGLWidgets.so.6 "$libraries"/libQt6OpenGL.so.6 \
  -lQt6PrintSupport -lQt6Widgets -lQt6Gui -lQt6Core $linked
